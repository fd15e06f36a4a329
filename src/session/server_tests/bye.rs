//! R3: when BYE deletes an agent's mark, and when it changes nothing.

use super::*;

#[test]
fn r3_bye_ends_the_connection_without_a_word_and_makes_room_for_another_agent() {
    let input = [bytes_of(hello()), data(1, "a"), data(2, "b"), bye(), data(3, "after BYE")];
    expect(&input, &[WELCOME, Heard::Ack(2)], &["a", "b"]);
    let mut server = Server::new();
    server.marks = Mutex::new(Marks::new(1, DEDUPE_RETENTION));
    let (mut session, mut out) = (server.connect(), Vec::new());
    server.receive(&mut session, &mut input.concat(), &mut out);
    assert!(server.left == [2] && server.marks.get_mut().unwrap().is_empty());
    assert!(!session.may_receive(&server.settings) && !session.is_waiting() && session.deadline(true).is_none());
    out.clear();
    server.turn(|turn| session.end(GoawayCode::Shutdown, "this server is shutting down", turn.random, &mut out));
    assert!(out.is_empty(), "the agent has gone");
    let mut session = server.connect();
    server.receive(&mut session, &mut bytes_of(Hello { agent_id: [8; 16], ..hello() }), &mut out);
    assert_eq!(heard(&out), [WELCOME]);
}

#[test]
fn r3_bye_of_an_agent_that_sent_nothing_and_of_one_whose_welcome_acknowledged_all() {
    expect(&[bytes_of(hello()), bye()], &[WELCOME], &[]);
    let mut server = known_agent(5, 2);
    let (mut session, mut out) = (server.connect(), Vec::new());
    server.receive(&mut session, &mut [bytes_of(Hello { epoch: 5, ..hello() }), bye()].concat(), &mut out);
    assert_eq!(heard(&out), [Heard::Welcome { epoch: 5, last_seq: 2, resumed: true, level: AckLevel::Received }]);
    assert!(server.left == [2] && server.marks.get_mut().unwrap().is_empty());
    // It holds nothing: whatever it sends now is new, with its old epoch too.
    let (mut session, mut out) = (server.connect(), Vec::new());
    let input = [bytes_of(Hello { epoch: 5, oldest_seq: 3, ..hello() }), data(3, "new")];
    server.receive(&mut session, &mut input.concat(), &mut out);
    let unknown = Heard::Welcome { epoch: 5, last_seq: 2, resumed: false, level: AckLevel::Received };
    assert_eq!((heard(&out), server.stored), (vec![unknown, Heard::Ack(3)], vec!["new".to_owned()]));
}

#[test]
fn r3_bye_while_a_frame_is_not_acknowledged_changes_nothing() {
    let mut server = Server::new();
    server.at_once = false;
    let (mut session, mut out) = (server.connect(), Vec::new());
    server.receive(
        &mut session,
        &mut [bytes_of(Hello { epoch: 5, ..hello() }), data(1, "a"), bye()].concat(),
        &mut out,
    );
    server.receive(&mut session, &mut data(2, "b"), &mut out);
    server.watermark = 2;
    server.acknowledge(&mut session, &mut out);
    assert_eq!(heard(&out)[1..], [Heard::Ack(2)], "both are taken, and acknowledged");
    // The ACK was lost: the agent sends what it holds again, and nothing is doubled.
    server.leave(&mut session);
    let mut session = server.connect();
    let again = [bytes_of(Hello { epoch: 5, ..hello() }), data(1, "a"), data(2, "b")];
    server.receive(&mut session, &mut again.concat(), &mut Vec::new());
    assert_eq!((server.stored.len(), server.left.len()), (2, 0));
    // A duplicate whose ACK is not written yet.
    let mut out = Vec::new();
    let (header, bytes) = (Header::data(2, &batch(vec![named("b")])), bye());
    server.turn(|turn| session.frame(&header, b"", turn, &mut out));
    let Ok(Decoded::Frame { header, payload }) = decode(&bytes, server.settings.payload_caps()) else { panic!() };
    assert_eq!(server.turn(|turn| session.frame(&header, payload, turn, &mut out)), Step::Continue);
}

#[test]
fn r3_bye_of_a_connection_that_was_replaced_leaves_the_newer_ones_mark() {
    let mut server = Server::new();
    let greeting = || bytes_of(Hello { epoch: 5, ..hello() });
    let (mut older, mut newer) = (server.connect(), server.connect());
    // Connections are numbered in the order in which their HELLO comes.
    server.receive(&mut older, &mut [greeting(), data(1, "a")].concat(), &mut Vec::new());
    server.leave(&mut older);
    server.receive(&mut newer, &mut greeting(), &mut Vec::new());
    server.receive(&mut older, &mut bye(), &mut Vec::new());
    assert_eq!((server.left.len(), server.marks.get_mut().unwrap().len()), (0, 1));
    let mut out = Vec::new();
    server.receive(&mut newer, &mut [data(1, "a"), data(2, "b"), bye()].concat(), &mut out);
    assert_eq!((heard(&out).last(), server.stored.len()), (Some(&Heard::Ack(2)), 2));
    assert_eq!((&server.left[..], server.marks.get_mut().unwrap().len()), (&[2][..], 0));
}

#[test]
fn r3_bye_at_level_delivered_counts_once_everything_is_delivered() {
    let mut server = lagging_server();
    let mut session = server.connect();
    server.receive(&mut session, &mut [hello_for(AckLevel::Synced), data(1, "a")].concat(), &mut Vec::new());
    // Stored, but not delivered: WELCOME acknowledges nothing, so the agent still holds frame 1.
    server.leave(&mut session);
    let (mut session, mut out) = (server.connect(), Vec::new());
    server.receive(&mut session, &mut [hello_for(AckLevel::Delivered), bye()].concat(), &mut out);
    let welcome = Heard::Welcome { epoch: 5, last_seq: 0, resumed: true, level: AckLevel::Delivered };
    assert_eq!((heard(&out), server.left.len()), (vec![welcome], 0));
    server.receive(&mut session, &mut [data(1, "a"), bye()].concat(), &mut out);
    assert_eq!((heard(&out).last(), &server.left[..]), (Some(&Heard::Ack(1)), &[1][..]));
}
