//! Limits: an agent above its rate is not read, sees it in its ACKs, and loses nothing.

use super::*;
use crate::metrics::LimitScope;
use crate::rate::{Amount, Limit};
use crate::session::rates::{RateSettings, Rates, Wait};
use crate::wire::PayloadCaps;

/// Ten events a second, 20 at once.
fn ten_per_second(server: &Server) -> Rates {
    let agent = Limit::new(10, 0, 2 * SECOND);
    Rates::new(RateSettings { agent, ..RateSettings::default() }, server.now)
}

/// Windows of the ACKs in `out`, with their numbers.
fn acks(mut out: &[u8]) -> Vec<(u64, u32)> {
    let mut acks = Vec::new();
    while let Ok(Decoded::Frame { header, payload }) = decode(out, PayloadCaps { data: 0 }) {
        if header.kind == FrameKind::Ack {
            acks.push((header.seq, header.arg));
        }
        out = &out[32 + payload.len()..];
    }
    acks
}

/// An agent that is connected, with what it does not hear any more.
fn streaming(server: &mut Server) -> ServerSession {
    let (mut session, mut out) = (server.connect(), Vec::new());
    server.receive(&mut session, &mut bytes_of(hello()), &mut out);
    session
}

/// One frame that is read when the session lets it be read. `Err`: it is not read.
fn send(server: &mut Server, session: &mut ServerSession, rates: &Rates, seq: u64) -> Result<Vec<(u64, u32)>, Wait> {
    if let Err(wait) = session.room(rates, server.now) {
        session.set_paused(true, server.now);
        return Err(wait);
    }
    session.set_paused(false, server.now);
    let mut out = Vec::new();
    server.receive(session, &mut data(seq, &format!("event {seq}")), &mut out);
    session.charge(Amount { events: 15, bytes: 100 }, rates, server.now);
    Ok(acks(&out))
}

#[test]
fn an_agent_above_its_rate_is_not_read_and_loses_nothing() {
    let mut server = Server::new();
    server.settings.window_bytes = WINDOW_BYTES;
    let rates = ten_per_second(&server);
    let mut session = streaming(&mut server);
    let (begin, mut seq) = (server.now, 0);
    while server.now < begin + 60 * SECOND {
        match send(&mut server, &mut session, &rates, seq + 1) {
            Ok(heard) => {
                seq += 1;
                assert_eq!(heard.last().map(|(acked, _)| *acked), Some(seq));
            }
            Err(Wait { scope, time }) => {
                assert_eq!(scope, LimitScope::Agent);
                server.now += time;
            }
        }
    }
    assert_eq!(server.stored.len() as u64, seq);
    // A burst, a minute, and the last one that is not paid for yet.
    assert!((620..=620 + 15).contains(&(seq * 15)), "{seq} frames of 15 events");
}

#[test]
fn the_window_is_small_while_the_agent_waits_and_opens_again_when_it_does_not() {
    let mut server = Server::new();
    server.settings.window_bytes = WINDOW_BYTES;
    let rates = ten_per_second(&server);
    let mut session = streaming(&mut server);
    server.at_once = false;
    for seq in 1..=2 {
        assert_eq!(send(&mut server, &mut session, &rates, seq), Ok(vec![]));
    }
    let Err(Wait { time, .. }) = send(&mut server, &mut session, &rates, 3) else { panic!("30 events are above 20") };
    assert_eq!(time, SECOND);
    // The ACK of what was read.
    let mut out = Vec::new();
    server.at_once = true;
    server.acknowledge(&mut session, &mut out);
    assert_eq!(acks(&out), [(2, WINDOW_BYTES_DELAYED)]);
    assert!(!session.is_waiting());
    // Within a busy minute it stays small.
    server.now += time;
    assert_eq!(send(&mut server, &mut session, &rates, 3), Ok(vec![(3, WINDOW_BYTES_DELAYED)]));
    assert!(send(&mut server, &mut session, &rates, 4).is_err());
    server.now += 10 * SECOND;
    assert_eq!(send(&mut server, &mut session, &rates, 4), Ok(vec![(4, WINDOW_BYTES_DELAYED)]));
    // Its socket is empty: one ACK more, and no other.
    session.open_window();
    assert!(session.is_waiting());
    let mut out = Vec::new();
    server.acknowledge(&mut session, &mut out);
    server.acknowledge(&mut session, &mut out);
    assert_eq!(acks(&out), [(4, WINDOW_BYTES)]);
    session.open_window();
    assert!(!session.is_waiting());
}

#[test]
fn a_window_that_is_smaller_by_the_settings_stays_as_it_is() {
    let mut server = Server::new();
    let rates = ten_per_second(&server);
    let mut session = streaming(&mut server);
    for seq in 1..=2 {
        assert_eq!(send(&mut server, &mut session, &rates, seq), Ok(vec![(seq, server.settings.window_bytes)]));
    }
    assert!(send(&mut server, &mut session, &rates, 3).is_err());
    server.now += ACK_REPEAT;
    let mut out = Vec::new();
    server.turn(|turn| session.handle_timeout(false, turn, &mut out));
    assert_eq!(acks(&out), [(2, server.settings.window_bytes)]);
}

#[test]
fn an_agent_that_waits_for_an_hour_is_not_blamed_for_its_silence() {
    let mut server = Server::new();
    let rates = ten_per_second(&server);
    let mut session = streaming(&mut server);
    session.charge(Amount { events: 36_020, bytes: 0 }, &rates, server.now);
    let mut waited = Duration::ZERO;
    while let Err(Wait { time, .. }) = session.room(&rates, server.now) {
        session.set_paused(true, server.now);
        let repeated = session.deadline(true).unwrap();
        assert!(repeated <= server.now + ACK_REPEAT);
        assert!(server.time_out(&mut session, true).iter().all(|heard| matches!(heard, Heard::Ack(0))));
        waited += time.min(SECOND);
        server.now += time.min(SECOND);
    }
    assert_eq!(waited, 3_600 * SECOND);
    assert!(send(&mut server, &mut session, &rates, 1).is_ok());
    assert_eq!(session.deadline(false), Some(server.now + KEEPALIVE.mul_f32(1.5)), "its time begins anew");
}

#[test]
fn reconnecting_does_not_refill_a_burst() {
    let mut server = Server::new();
    let rates = ten_per_second(&server);
    let mut session = streaming(&mut server);
    for seq in 1..=2 {
        send(&mut server, &mut session, &rates, seq).unwrap();
    }
    let due = session.due();
    server.leave(&mut session);
    let mut session = streaming(&mut server);
    assert_eq!(session.due(), due);
    assert_eq!(send(&mut server, &mut session, &rates, 3).unwrap_err().time, SECOND);
}

#[test]
fn a_bye_is_heard_while_the_window_is_to_be_opened() {
    let mut server = Server::new();
    server.settings.window_bytes = WINDOW_BYTES;
    let rates = ten_per_second(&server);
    let mut session = streaming(&mut server);
    for seq in 1..=2 {
        send(&mut server, &mut session, &rates, seq).unwrap();
    }
    assert!(send(&mut server, &mut session, &rates, 3).is_err());
    let mut out = Vec::new();
    server.turn(|turn| session.handle_timeout(false, turn, &mut out));
    session.narrow_window();
    server.now += 10 * SECOND;
    server.turn(|turn| session.handle_timeout(false, turn, &mut out));
    session.open_window();
    assert!(session.is_waiting());
    server.receive(&mut session, &mut bye(), &mut out);
    assert_eq!(server.left, [2]);
    assert!(!session.is_waiting());
}
