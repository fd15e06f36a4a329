//! The client against a server on loopback that follows a script, one connection after the other.

use std::net::{Shutdown, TcpListener};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::script::{serve, welcome};
use super::*;
use crate::wire::{FrameKind, Goaway, GoawayCode, Header, NackCode, answer};

const PATIENCE: Duration = Duration::from_secs(20);

fn options(address: String) -> Options {
    Options { name: "tester".to_owned(), patience: Some(PATIENCE), ..Options::new(address) }
}

fn events(numbers: std::ops::Range<u32>) -> Vec<Event> {
    numbers.map(|number| Event { name: number.to_string(), ..Event::default() }).collect()
}

fn within(limit: Duration) -> Option<Instant> {
    Some(Instant::now() + limit)
}

#[test]
fn events_arrive_and_acknowledgements_are_read_to_the_end() {
    let (stored, received) = mpsc::channel();
    let (left, gone) = mpsc::channel();
    let address = serve(move |_, mut peer| {
        peer.greet();
        let mut last = 0;
        while last < 2 {
            let (seq, events) = peer.data().unwrap();
            last = seq;
            stored.send(events).unwrap();
        }
        // Once all is acknowledged the agent sends BYE and half-closes.
        peer.ack(last);
        let (header, payload) = peer.frame().unwrap();
        assert_eq!((header, payload), (Header::empty(FrameKind::Bye, 0, 0), Vec::new()));
        assert!(peer.frame().is_none());
        left.send(()).unwrap();
    });
    let mut client = Client::connect(options(address)).unwrap();
    assert_eq!(client.welcome().unwrap().ack, AckLevel::Received);
    client.send(&events(0..3)).unwrap();
    client.send(&[]).unwrap();
    client.send(&events(3..1000)).unwrap();
    let progress = client.close(within(PATIENCE)).unwrap();
    assert_eq!((progress.acknowledged_events, progress.last_seq, progress.connections), (1000, 2, 1));
    let frames: Vec<_> = received.try_iter().collect();
    assert_eq!(frames.concat(), events(0..1000));
    assert_eq!(gone.recv_timeout(PATIENCE), Ok(()));
}

#[test]
fn a_server_that_does_not_end_the_connection_after_bye_does_not_hold_the_client_up() {
    let (done, wait) = mpsc::channel::<()>();
    let address = serve(move |_, mut peer| {
        peer.greet();
        while let Some((seq, _)) = peer.data() {
            peer.ack(seq);
        }
        let _ = wait.recv();
    });
    let mut client = Client::connect(options(address)).unwrap();
    client.send(&events(0..1)).unwrap();
    client.flush(within(PATIENCE)).unwrap();
    // Shorter than the wait for the server's end: everything is acknowledged all the same.
    let progress = client.close(within(Duration::from_millis(1))).unwrap();
    assert_eq!(progress.acknowledged_events, 1);
    drop(done);
}

#[test]
fn every_event_is_stored_once_over_broken_connections() {
    let (stored, received) = mpsc::channel();
    let mut last_seq = 0;
    let address = serve(move |number, mut peer| {
        let oldest = peer.hello();
        last_seq = last_seq.max(oldest - 1);
        peer.say(|out| welcome(last_seq, number > 0).encode(out));
        // Three frames a connection, of which one is acknowledged; then it breaks, from the tenth on it does not.
        let mut frames = 0;
        while frames < 3 || number >= 10 {
            let Some((seq, events)) = peer.data() else { return };
            assert!(seq <= last_seq + 1, "no gaps");
            if seq == last_seq + 1 {
                last_seq = seq;
                stored.send(events).unwrap();
            }
            frames += 1;
            if frames == 1 || number >= 10 {
                peer.ack(last_seq);
            }
        }
    });
    let mut client = Client::connect(options(address)).unwrap();
    for number in 0..100 {
        client.send(&events(number..number + 1)).unwrap();
    }
    let progress = client.close(within(PATIENCE)).unwrap();
    assert_eq!((progress.acknowledged_events, progress.possibly_doubled_events), (100, 0));
    assert!(progress.connections > 10, "{progress:?}");
    assert_eq!(received.try_iter().flatten().collect::<Vec<_>>(), events(0..100));
}

#[test]
fn a_lost_connection_is_made_again_without_a_call() {
    let (told, heard) = mpsc::channel();
    let address = serve(move |number, mut peer| {
        peer.greet();
        let (seq, _) = peer.data().unwrap();
        if number == 1 {
            peer.ack(seq);
            told.send(seq).unwrap();
            while peer.frame().is_some() {}
        }
    });
    let mut client = Client::connect(options(address)).unwrap();
    client.send(&events(0..1)).unwrap();
    assert_eq!(heard.recv_timeout(PATIENCE), Ok(1));
    client.flush(within(PATIENCE)).unwrap();
    assert_eq!(client.acknowledged_events(), 1);
}

#[test]
fn an_agent_that_the_server_refuses_is_told_why() {
    let address = serve(|_, mut peer| {
        peer.hello();
        peer.say(|out| Goaway { code: Ok(GoawayCode::Auth), retry_ms: 0, text: "unknown token" }.encode(0, out));
    });
    let error = Client::connect(options(address)).err().unwrap();
    assert!(matches!(error, ClientError::Stopped(Stopped::Refused { code: GoawayCode::Auth, .. })), "{error}");
    assert!(error.to_string().contains("AUTH: \"unknown token\""), "{error}");
}

#[test]
fn patience_ends_a_call_when_nobody_listens() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let patience = Some(Duration::from_secs(2));
    let error = Client::connect(Options { patience, ..options(address.clone()) }).err().unwrap();
    assert!(matches!(error, ClientError::TimedOut { .. }));
    assert!(error.to_string().contains(&address) && error.to_string().contains("refused"), "{error}");
}

#[test]
fn a_server_that_does_not_read_stops_the_sender_and_not_its_memory() {
    let (done, wait) = mpsc::channel::<()>();
    let address = serve(move |_, mut peer| {
        peer.greet();
        let _ = wait.recv();
    });
    let mut client = Client::connect(options(address)).unwrap();
    client.set_patience(Some(Duration::from_millis(300)));
    let payload = vec![0x0a; 1 << 20];
    let taken = (0..100).take_while(|_| client.send_encoded(&payload, 0).is_ok()).count();
    assert_eq!(taken, CLIENT_QUEUE_BYTES / (1 << 20) - 1, "headers count too");
    assert!(matches!(client.flush(within(Duration::ZERO)), Err(ClientError::TimedOut { .. })));
    drop(done);
}

#[test]
fn last_words_are_heard_in_the_midst_of_writing() {
    let (stored, received) = mpsc::channel();
    let address = serve(move |number, mut peer| {
        peer.greet();
        if number == 0 {
            // The agent has begun to write; nothing is read, so it cannot end.
            peer.stream.peek(&mut [0]).unwrap();
            peer.say(|out| Goaway { code: Ok(GoawayCode::Shutdown), retry_ms: 1, text: "" }.encode(0, out));
            let _ = peer.stream.shutdown(Shutdown::Write);
            while peer.frame().is_some() {}
            return;
        }
        while let Some((seq, events)) = peer.data() {
            stored.send(events.len()).unwrap();
            peer.ack(seq);
        }
    });
    let client = Client::connect(options(address)).unwrap();
    let event = Event { body: "b".repeat(60_000), ..Event::default() };
    let mut batch = Batch::new();
    while batch.has_room(Batch::bytes_of(&event), 1 << 20) {
        batch.push(&event);
    }
    for _ in 0..240 {
        client.send_encoded(batch.bytes(), batch.events()).unwrap();
    }
    let progress = client.close(within(PATIENCE)).unwrap();
    assert_eq!(progress.connections, 2);
    assert_eq!(received.try_iter().sum::<usize>(), 240 * batch.events() as usize);
}

#[test]
fn refused_events_are_reported() {
    let address = serve(|_, mut peer| {
        peer.greet();
        while let Some((seq, _)) = peer.data() {
            peer.say(|out| answer::nack(seq, NackCode::Partial, r#"{"accepted":2,"rejected":[]}"#, out));
            peer.ack(seq);
        }
    });
    let mut client = Client::connect(options(address)).unwrap();
    client.send(&events(0..5)).unwrap();
    client.flush(within(PATIENCE)).unwrap();
    let [Report::Refused(refusal)] = &client.take_reports()[..] else { panic!("one report") };
    assert_eq!((refusal.seq, refusal.code, refusal.refused), (1, Ok(NackCode::Partial), 3));
    assert_eq!(client.take_reports(), []);
    let progress = client.close(within(PATIENCE)).unwrap();
    assert_eq!((progress.acknowledged_events, progress.refused_events), (2, 3));
}

#[test]
fn frames_respect_the_servers_limit() {
    let (stored, received) = mpsc::channel();
    let address = serve(move |_, mut peer| {
        peer.hello();
        peer.say(|out| Welcome { max_frame: 1000, ..welcome(0, false) }.encode(out));
        while let Some((header, payload)) = peer.frame() {
            stored.send(payload.len()).unwrap();
            peer.ack(header.seq);
        }
    });
    let mut client = Client::connect(options(address)).unwrap();
    client.send(&events(0..1000)).unwrap();
    let large = Event { body: "b".repeat(1000), ..Event::default() };
    let error = client.send(&[events(0..1).remove(0), large]).unwrap_err();
    assert!(matches!(error, ClientError::EventTooLarge { index: 1, max: 1000, .. }), "{error}");
    let progress = client.close(within(PATIENCE)).unwrap();
    assert_eq!(progress.acknowledged_events, 1001, "those before the large one are taken");
    assert!(received.try_iter().all(|bytes| bytes <= 1000));
}

#[test]
fn a_dropped_client_leaves_its_connection() {
    let (told, heard) = mpsc::channel();
    let address = serve(move |_, mut peer| {
        peer.greet();
        while peer.frame().is_some() {}
        told.send(()).unwrap();
    });
    drop(Client::connect(options(address)).unwrap());
    assert_eq!(heard.recv_timeout(PATIENCE), Ok(()));
}
