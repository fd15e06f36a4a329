//! The end of an agent: its last ACK, BYE (R3), and what may go wrong on the way.

use super::*;
use crate::limits::BYE_TIMEOUT;

#[test]
fn r3_a_closing_agent_reads_its_last_ack_sends_bye_and_half_closes() {
    let mut script = Script::greeted(settings(), &Welcome { window_frames: 1, ..welcome() });
    script.queue(&[b"a", b"b"]);
    script.agent.close();
    assert_eq!(script.agent.queue(b"c", 1), Err(QueueError::Closing));
    assert_eq!(script.said(), [data(1, b"a")]);
    script.server(|out| answer::ack(1, 100, out));
    assert_eq!(script.said(), [data(2, b"b")]);
    script.now += KEEPALIVE / 2;
    assert_eq!(script.said(), [Said::Ping], "it waits as an agent that is not closing");
    assert_ne!(script.rest, Action::HalfClose);
    script.ack(2);
    assert_eq!(script.said(), [Said::Bye]);
    assert_eq!(script.rest, Action::HalfClose);
    assert_eq!(script.said(), []);
    assert_eq!(script.rest, Action::Wait(Some(script.now + BYE_TIMEOUT)));
    assert_eq!(script.agent.stopped(), None, "the server's end is awaited, so that BYE is not reset");
    script.ack(2);
    script.agent.disconnected("the server closed the connection".to_owned(), script.now);
    assert_eq!(script.agent.poll(script.now), Action::Close);
    assert_eq!(script.agent.poll(script.now), Action::Stop);
    assert_eq!(script.agent.stopped(), Some(&Stopped::Finished));
    assert_eq!(script.lost(), None, "that is no lost connection");
}

#[test]
fn r3_after_bye_nothing_keeps_the_agent_longer_than_2_s() {
    let ends: [fn(&mut Script); 4] = [
        |script| script.now += BYE_TIMEOUT,
        |script| script.goaway(GoawayCode::Shutdown, 1, 5_000),
        |script| script.goaway(GoawayCode::Auth, 1, 0),
        |script| script.agent.receive(b"no frame", script.now),
    ];
    for end in ends {
        let mut script = Script::greeted(settings(), &welcome());
        script.queue(&[b"a"]);
        script.said();
        script.ack(1);
        script.agent.close();
        assert_eq!((script.said(), &script.rest), (vec![Said::Bye], &Action::HalfClose));
        script.said();
        end(&mut script);
        assert_eq!(script.agent.poll(script.now), Action::Close);
        assert_eq!(script.agent.poll(script.now), Action::Stop);
        assert_eq!(script.agent.stopped(), Some(&Stopped::Finished));
    }
}

#[test]
fn r3_a_connection_lost_while_closing_is_made_again_and_its_welcome_may_be_the_last_ack() {
    let mut script = Script::greeted(settings(), &welcome());
    script.queue(&[b"a"]);
    script.agent.close();
    script.said();
    let (_, again) = script.reconnect(0);
    assert_eq!(again, [data(1, b"a")]);
    let (_, again) = script.reconnect(1);
    assert_eq!((again, &script.rest), (vec![Said::Bye], &Action::HalfClose));
    script.agent.disconnected("reset".to_owned(), script.now);
    assert_eq!(script.agent.stopped(), Some(&Stopped::Finished), "a BYE that is lost is not sent again");
}

#[test]
fn with_nothing_unacknowledged_closing_is_immediate() {
    let mut script = Script::new(settings());
    script.agent.close();
    assert_eq!(script.agent.poll(script.now), Action::Stop);
    let mut script = Script::greeted(settings(), &welcome());
    script.agent.close();
    assert_eq!((script.said(), &script.rest), (vec![Said::Bye], &Action::HalfClose));
    let mut script = Script::greeted(settings(), &welcome());
    script.agent.disconnected("reset".to_owned(), script.now);
    script.agent.close();
    assert_eq!(script.agent.poll(script.now), Action::Stop, "no connection is opened only to send BYE");
}
