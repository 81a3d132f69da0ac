//! Inputs of actions that race: edited meanwhile, or only on the server.

use super::{Remote, branches, downloaded, races, sides};
use crate::{genrule, with_targets};

#[test]
fn d34_local_run_sees_an_input_edited_meanwhile() {
    let (remote, ws) = (Remote::new(), with_targets("").file("in", "one\n"));
    ws.write("minibuild.toml", "[remote]\nupload_local_results = \"always\"\n");
    let (mut here, mut there) = (ws.gate("here"), ws.gate("there"));
    let command = sides(&format!("cp $SRC $OUT; {}", here.pass()), &format!("{}; cp $SRC $OUT", there.pass()));
    ws.write("BUILD.toml", genrule("a", &["in"], &["a"], &command));
    let build = remote.start_race(&ws, &["//..."]);
    here.arrival();
    there.arrival();
    ws.write("in", "two\n");
    here.open();
    let run = build.wait().ok();
    assert_eq!((races(&run), ws.output("a").as_str()), ((1, 1, 0), "one\n"), "the result is used");
    let expected = "`in` changed while `//:a` ran; its result is used now and not remembered";
    assert_eq!(run.messages("warning"), [expected]);
    assert_eq!(remote.calls(&["UpdateActionResult"]), 0, "it was stored in the cache");
    // The content it seems to be of comes back: what was made is not taken for that content's.
    ws.write("in", "one\n");
    here.open();
    let flags = ["//...", "--strategy=local"];
    remote.stop();
    remote.restart("");
    let run = remote.race(&ws, &flags).ok().started_only(&["//:a"]);
    assert_eq!((run.counts().local, ws.output("a").as_str()), (1, "one\n"));
    remote.race(&ws, &flags).ok_without_running();
}

#[test]
fn d29_shared_input_fetch_survives_a_lost_race() {
    const DOWNLOADS: [&str; 2] = ["BatchReadBlobs", "Read"];
    let (remote, ws) = (Remote::new(), with_targets(""));
    // Here `a` could never end.
    let (here, mut there) = (ws.gate("here"), ws.gate("there"));
    let big = genrule("big", &[], &["big"], "head -c 3000000 /dev/zero > $OUT");
    let of_both = |name: &str| {
        let command =
            sides(&format!("{}; wc -c < $SRC > $OUT", here.pass()), &format!("{}; wc -c < $SRC > $OUT", there.pass()));
        genrule(name, &[":big"], &[name], &command)
    };
    let of_this = |name: &str| genrule(name, &[":big"], &[name], "cksum < $SRC > $OUT") + "tags = [\"no-remote\"]\n";
    ws.write("BUILD.toml", &big);
    remote.build(&ws, &["//:big", "--download=minimal"]).ok();
    // The bytes come slowly, so that `a` can be decided while they do; its run there needs them no more than `r` does.
    let slow = |method: &str| format!("[[fault]]\nkind = \"latency\"\nmethod = {method:?}\nms = 700\n");
    remote.restart(&DOWNLOADS.map(slow).concat());
    ws.write("BUILD.toml", big.clone() + &of_both("a") + &of_this("r"));
    let build = remote.start_race(&ws, &["//:a", "//:r", "--download=minimal"]);
    build.wait_until("the input is being brought", || remote.calls(&DOWNLOADS) > 0);
    there.arrival();
    there.open();
    let run = build.wait().ok();
    assert!(branches(&run).contains(&("remote", "won")), "{:?}", branches(&run));
    assert_eq!(downloaded(&run), [("big", "input")], "once, for whoever reads it");
    assert_eq!(remote.calls(&DOWNLOADS), 1);
    assert_eq!(ws.output("r").split_ascii_whitespace().nth(1), Some("3000000"));
    // Next time nothing is brought: whoever reads it starts here at once.
    remote.restart("");
    ws.write("BUILD.toml", big + &of_this("next"));
    let run = remote.race(&ws, &["//:next", "--download=minimal"]).ok();
    assert_eq!((downloaded(&run), remote.calls(&DOWNLOADS)), (vec![], 0));
}

#[test]
fn d29_what_is_read_here_in_vain_is_here_next_time() {
    let (remote, ws) = (Remote::new(), with_targets(""));
    let big = genrule("big", &[], &["big"], "head -c 300000 /dev/zero > $OUT");
    let here = ws.gate("here");
    let command = sides(&format!("{}; wc -c < $SRC > $OUT", here.pass()), "wc -c < $SRC > $OUT");
    ws.write("BUILD.toml", &big);
    remote.build(&ws, &["//:big", "--download=minimal"]).ok();
    ws.write("BUILD.toml", big + &genrule("a", &[":big"], &["a"], &command));
    // A place here is free, but what `a` reads is not here: it is brought while the other side runs, which wins.
    let run = remote.race(&ws, &["--download=minimal", "//:a"]).ok();
    assert_eq!(downloaded(&run), [("big", "input")], "{:?}", branches(&run));
    assert!(ws.has_output("big"));
}
