//! What commands leave among the outputs and nobody declares (scenario D12).

use super::{Remote, one, races};
use crate::{genrule, with_targets};

#[test]
fn d12_undeclared_files() {
    let targets = genrule(
        "a",
        &[],
        &["a", "sub/b"],
        "echo a | tee $OUTS; echo x > minibuild-out/bin/p/x.tmp; echo y > minibuild-out/bin/p/sub/y.tmp; mkdir minibuild-out/bin/p/work; echo z > minibuild-out/bin/p/work/z",
    ) + &genrule("other", &[], &["other"], "echo o > $OUT")
        + &genrule("quiet", &[":a"], &["quiet"], "cat $SRCS > $OUT")
        + "rspfile = { path = \"quiet.rsp\", content = \"x\" }\n";
    let ws = with_targets("").file("p/BUILD.toml", &targets);
    let run = ws.build(&["//p:a", "//p:quiet"]).ok();
    let warnings = run.messages("warning");
    let expected = "commands left what no target declares: `minibuild-out/bin/p/sub/y.tmp`, `minibuild-out/bin/p/work/`, \
                    `minibuild-out/bin/p/x.tmp`\n";
    assert!(matches!(&warnings[..], [text] if text.starts_with(expected)), "{warnings:?}");
    // Once: neither when nothing runs, nor when the same command leaves the same again, nor for another's run beside it.
    let run = ws.build(&["//p:a"]).ok_without_running();
    assert!(run.messages("warning").is_empty());
    assert!(ws.build(&["//p:other"]).ok().messages("warning").is_empty());
    ws.write("p/BUILD.toml", targets.replace("echo a |", "echo b |").replace("mkdir ", "mkdir -p "));
    let run = ws.build(&["//p:a", "//p:quiet"]).ok().started_only(&["//p:a", "//p:quiet"]);
    assert!(run.messages("warning").is_empty(), "{:?}", run.messages("warning"));
    // One that is new is told of.
    ws.write(
        "p/BUILD.toml",
        targets.replace("echo a |", "echo c > minibuild-out/bin/p/c.tmp; echo c |").replace("mkdir ", "mkdir -p "),
    );
    let run = ws.build(&["//p:a"]).ok();
    assert!(
        run.messages("warning").concat().contains("declares: `minibuild-out/bin/p/c.tmp`\n"),
        "{:?}",
        run.messages("warning")
    );
}

#[test]
fn d12_undeclared_files_of_a_loser() {
    let (remote, ws) = (Remote::new(), with_targets(""));
    let here = "echo half > $OUT; echo t > minibuild-out/bin/a.tmp";
    let run = remote.overtake(&ws, one, here, "echo whole > $OUT; echo t > minibuild-out/bin/b.tmp");
    assert_eq!((races(&run), ws.output("a").as_str()), ((1, 0, 1), "whole\n"));
    let warnings = run.messages("warning");
    assert!(warnings.concat().contains("declares: `minibuild-out/bin/a.tmp`\n"), "{warnings:?}");
}
