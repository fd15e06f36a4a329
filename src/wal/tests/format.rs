//! The bytes on disk are those of `docs/log.md`.

use std::sync::Arc;

use crate::batch::Origin;
use crate::wal::record::{self, Content, Encoder, Entry, Kind, Place};
use crate::wal::segment::{Header, Name, VERSION};

#[test]
fn the_segment_in_the_page_is_what_is_written() {
    let (server_id, segment_id) =
        (std::array::from_fn(|index| index as u8), [0xA0, 0xA1, 0xA2, 0xA3, 0xA4, 0xA5, 0xA6, 0xA7]);
    let header =
        Header { version: VERSION, server_id, segment_id, first_position: 1, created_unix_nano: 1 << 60, left_out: 0 };
    let place = |synced_bytes| Place { segment_id, server_id, first_position: 1, synced_bytes };
    let mut encoder = Encoder::default();
    encoder.marks([].iter());
    let marks = encoder.finish(place(0)).to_vec();
    let origin = Arc::new(Origin {
        agent_id: Some(std::array::from_fn(|index| 0x10 | index as u8)),
        agent: Some("api".to_owned()),
        default_source: "api".to_owned(),
        epoch: 7,
    });
    let payload = b"\x0a\x07\x2a\x05hello";
    let sent_crc = crc32fast::hash(payload);
    let entry = Entry {
        kind: Kind::Frame { seq: 1, sent_crc },
        origin: &origin,
        events: 1,
        received_unix_nano: (1 << 60) + 1,
        payload,
        payload_crc: Some(sent_crc),
    };
    encoder.commit(&[entry]).unwrap();
    let written = [&header.encode()[..], &marks, encoder.finish(place(132)), payload].concat();

    let page = include_str!("../../../docs/log.md");
    let (_, block) = page.split_once("```segment\n").unwrap();
    let (block, _) = block.split_once("\n```").unwrap();
    let hex: String = written.iter().map(|byte| format!("{byte:02x}")).collect();
    let shown: String = block.split_whitespace().collect();
    assert_eq!(shown, hex);
}

#[test]
fn a_bye_is_a_hello_that_moves_nothing_to_a_program_that_does_not_know_it() {
    let origin = Arc::new(Origin {
        agent_id: Some([0x10; 16]),
        agent: Some(String::new()),
        default_source: String::new(),
        epoch: 7,
    });
    let place = Place { segment_id: [0xA0; 8], server_id: [0; 16], first_position: 2, synced_bytes: 132 };
    let mut encoder = Encoder::default();
    let mut run = |kind| {
        let entry =
            Entry { kind, origin: &origin, events: 0, received_unix_nano: 1 << 60, payload: &[], payload_crc: None };
        encoder.commit(&[entry]).unwrap();
        let record = encoder.finish(place).to_vec();
        let header = record::Header::read(&record, &place.segment_id).unwrap();
        let (_, tables) = record.split_at(record::HEADER_BYTES);
        let Some(Content::Commit(runs)) = header.content(tables) else { panic!("a commit") };
        assert_eq!(runs[0].kind, kind);
        tables[40..].to_vec()
    };
    let (hello, bye) = (run(Kind::Hello { last_seq: 5 }), run(Kind::Bye { last_seq: 5 }));
    // Version 1 reads kind, origin, seq, events, time and payload of a hello, not what stands at 16.
    let differing: Vec<_> = (0..40).filter(|at| hello[*at] != bye[*at]).collect();
    assert_eq!((differing, hello[0], hello[16], bye[16]), (vec![16], 3, 0, 1));
}

#[test]
fn only_a_name_as_it_is_written_is_a_segments() {
    let text = "00000000000000000001-0000000002-9f3c51d2aa07e4b8.seg";
    let name = Name::parse(text).unwrap();
    assert_eq!((name.first_position, name.number, name.to_string()), (1, 2, text.to_owned()));
    assert!(
        name < Name { number: 10_000_000_000, ..name }
            && Name { number: 99, ..name } < Name { first_position: 2, ..name }
    );
    for other in [
        "",
        ".seg",
        "1-2-9f3c51d2aa07e4b8.seg",
        "00000000000000000001-0000000002-9F3C51D2AA07E4B8.seg",
        "00000000000000000001-0000000002-9f3c51d2aa07e4b8",
        "00000000000000000001-0000000002-9f3c51d2aa07e4b8-1.seg",
        "99999999999999999999-0000000002-9f3c51d2aa07e4b8.seg",
        "+0000000000000000001-0000000002-9f3c51d2aa07e4b8.seg",
        "18446744073709551615-0000000002-9f3c51d2aa07e4b8.seg",
    ] {
        assert_eq!(Name::parse(other), None, "{other}");
    }
}
