//! What was known of a server and is no longer so: other servers, blobs that went and came back, results that differ
//! when they are made again (scenarios T).

use super::downloads::{heals, present};
use super::{Remote, chain, downloaded};
use crate::{genrule, with_targets};

const MINIMAL: &str = "--download=minimal";

#[test]
fn t35_another_server_is_asked_for_nothing_it_need_not_have() {
    let (one, other, ws) = (Remote::new(), Remote::new(), chain());
    one.build(&ws, &["//:c", MINIMAL]).ok();
    other.build(&ws, &["//:c", MINIMAL]).ok_without_running();
    assert_eq!(other.all_calls(), 0, "a result is valid wherever it came from");
    let run = other.build(&ws, &["//:c"]).ok();
    heals(&run, &ws);
    assert_eq!((other.ran(), one.ran()), (3, 3));
    for remote in [&one, &other] {
        ws.remove("minibuild-out/bin/c.txt");
        let run = remote.build(&ws, &["//:c"]).ok_without_running();
        assert_eq!((downloaded(&run), remote.ran()), (vec![("c.txt", "toplevel")], 3), "both are remembered");
    }
}

#[test]
fn t35_what_another_server_has_anyway_is_not_made_again() {
    let (one, other, ws) = (Remote::new(), Remote::new(), chain());
    one.build(&ws, &["//:c", MINIMAL]).ok();
    other.build(&chain(), &["//:c", MINIMAL]).ok();
    let run = other.build(&ws, &["//:c"]).ok();
    heals(&run, &ws);
    assert_eq!(other.ran(), 3, "{}", run.stderr);
}

#[test]
fn t35_what_is_here_is_sent_to_another_server() {
    let (one, other, ws) = (Remote::new(), Remote::new(), chain());
    one.build(&ws, &["//:c", "--download=all"]).ok();
    ws.write("BUILD.toml", ws.read("BUILD.toml") + &genrule("d", &[":c", ":a"], &["d"], "cat $SRCS > $OUT"));
    let run = other.build(&ws, &["//:d"]).ok().started_only(&["//:d"]);
    assert_eq!((other.ran(), downloaded(&run)), (1, vec![("d", "toplevel")]));
    assert_eq!(ws.output("d"), "ONE\nb\nc\nONE\n");
}

#[test]
fn t44_re_uploaded_meanwhile() {
    let (remote, ws) = (Remote::new(), chain());
    remote.build(&ws, &["//:c", MINIMAL]).ok();
    remote.evict_all();
    remote.build(&chain(), &["//:c", MINIMAL]).ok();
    let run = remote.build(&ws, &["//:c"]).ok_without_running();
    assert_eq!((downloaded(&run), remote.ran()), (vec![("c.txt", "toplevel")], 6));
}

#[test]
fn t44_re_uploaded_after_its_loss_was_seen() {
    let (remote, ws) = (Remote::new(), chain());
    remote.build(&ws, &["//:c", MINIMAL]).ok();
    remote.evict_all();
    // The build sees the loss, and can do nothing about it.
    remote.restart("[[fault]]\nkind = \"error\"\nmethod = \"Execute\"\ncode = \"PERMISSION_DENIED\"\n");
    remote.build(&ws, &["//:c"]).code(34);
    remote.restart("");
    remote.build(&chain(), &["//:c", MINIMAL]).ok();
    heals(&remote.build(&ws, &["//:c"]).ok(), &ws);
    assert_eq!(remote.ran(), 3, "only the other workspace's build ran anything");
}

#[test]
fn t64_heal_with_different_digest_rekeys_finished_consumers() {
    let remote = Remote::new();
    let random = genrule("p", &[], &["p"], "od -An -N8 -tx8 /dev/urandom > $OUT");
    let (b, c) = (
        genrule("b", &[":p"], &["b"], "(echo b; cat $SRC) > $OUT"),
        genrule("c", &[":b"], &["c"], "(echo c; cat $SRC) > $OUT"),
    );
    let ws = with_targets(&[random, b, c].concat());
    remote.build(&ws, &["//:c", MINIMAL]).ok();
    remote.evict_all();
    let local = genrule("d", &[":p"], &["d"], "(echo d; cat $SRC) > $OUT") + "tags = [\"no-remote\"]\n";
    ws.write("BUILD.toml", ws.read("BUILD.toml") + &local);
    let run = remote.build(&ws, &["//..."]).ok();
    let p = ws.output("p");
    let of = |name: &str, rest: &str| format!("{name}\n{rest}");
    let expected = (of("b", &p), of("c", &of("b", &p)), of("d", &p));
    assert_eq!((ws.output("b"), ws.output("c"), ws.output("d")), expected, "{}", run.stderr);
    remote.build(&ws, &["//..."]).ok_without_running();
}

#[test]
fn t64_finished_consumers_that_are_here_are_rekeyed_too() {
    let remote = Remote::new();
    let random = genrule("p", &[], &["p"], "od -An -N8 -tx8 /dev/urandom > $OUT");
    let consumer = |name: &str, src: &str| genrule(name, &[src], &[name], "(cat $SRC; echo x) > $OUT");
    let ws = with_targets(&[random, consumer("b", ":p"), consumer("c", ":b")].concat());
    remote.build(&ws, &["//:c"]).ok();
    let before = ws.output("c");
    remote.evict_all();
    let run = remote.build(&ws, &["//:p", "//:c"]).ok();
    let made = ws.output("p") + "x\nx\n";
    assert_eq!(made, ws.output("c"), "{}", run.stderr);
    assert_ne!(made, before, "it was made again");
    remote.build(&ws, &["//..."]).ok_without_running();
}

#[test]
fn t61_outage_before_a_local_consumer() {
    let (remote, ws) = (Remote::new(), chain());
    remote.build(&ws, &["//:b", MINIMAL]).ok();
    ws.write("BUILD.toml", ws.read("BUILD.toml") + "tags = [\"no-remote\"]\n");
    remote.stop();
    let executor = remote.executor();
    let run = ws.build(&["//:c", &executor, "--strategy=remote", "--remote-retries=0"]).ok();
    heals(&run, &ws);
    assert_eq!(run.counts().local, 3, "{:?}", run.counts());
    // What was made again is here, and what it was before.
    assert_eq!(present(&ws), "abc");
    remote.restart("");
    remote.build(&ws, &["//:c"]).ok_without_running();
}
