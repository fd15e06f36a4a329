//! Datagrams that the kernel has dropped.

use std::os::fd::AsFd;

/// Datagrams that were dropped because the buffer of this UDP socket was full: the last column of its row in `/proc/net/udp`.
/// `None`: it is not to be read there.
pub fn kernel_drops(socket: impl AsFd, is_ipv4: bool) -> Option<u64> {
    let inode = rustix::fs::fstat(socket).ok()?.st_ino;
    let table = std::fs::read_to_string(if is_ipv4 { "/proc/net/udp" } else { "/proc/net/udp6" }).ok()?;
    drops_in(&table, inode)
}

/// The drops of the socket with this inode in the text of such a table.
fn drops_in(table: &str, inode: u64) -> Option<u64> {
    let mut rows = table.lines().map(str::split_ascii_whitespace);
    rows.find_map(|mut row| if row.nth(9)?.parse() == Ok(inode) { row.last()?.parse().ok() } else { None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drops_of_a_socket_are_found_by_its_inode() {
        let table = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref \
                     pointer drops             \n  \
                     314: 0100007F:1220 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 81234 2 \
                     0000000000000000 17         \n";
        assert_eq!(drops_in(table, 81_234), Some(17));
        assert_eq!(drops_in(table, 81_235), None);
        assert_eq!(drops_in("", 1), None);
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(kernel_drops(&socket, true), Some(0));
    }
}
