//! Whole loads of small workspaces held in memory.

use minibuild_core::{EntryKind, Work};

use crate::testing::MemoryFs;
use crate::{ConfigInput, HostFacts, LoadRequest, Loaded, load, render};

fn request(patterns: &[&str]) -> LoadRequest {
    LoadRequest {
        config: ConfigInput::default(),
        patterns: patterns.iter().map(|p| (*p).to_owned()).collect(),
        cwd: String::new(),
        host: HostFacts { os: "linux".into(), arch: "x86_64".into() },
        threads: 2,
    }
}

fn loaded(files: &[(&str, &str)], patterns: &[&str]) -> Loaded {
    match load(&MemoryFs::new(files), &request(patterns)) {
        Ok(loaded) => loaded,
        Err(failure) => panic!("{}", render(&failure.diagnostics, &failure.sources, false)),
    }
}

fn errors(files: &[(&str, &str)], patterns: &[&str]) -> String {
    match load(&MemoryFs::new(files), &request(patterns)) {
        Ok(_) => "loaded".into(),
        Err(failure) => render(&failure.diagnostics, &failure.sources, false),
    }
}

fn requested(loaded: &Loaded) -> Vec<String> {
    loaded.requested.iter().map(|r| loaded.model.target(r.target).label.to_string()).collect()
}

#[test]
fn a_genrule_end_to_end() {
    let files = [
        ("minibuild.toml", ""),
        ("a/in.txt", "x"),
        (
            "a/BUILD.toml",
            "[[genrule]]\nname = \"g\"\nsrcs = [\"in.txt\", \"//b\"]\nouts = [\"out.txt\"]\ncmd = \"cat $SRCS $(location //b) > $OUT\"\nenv = { X = \"$(location in.txt)!\" }\n",
        ),
        ("b/BUILD.toml", "[[genrule]]\nname = \"b\"\nouts = [\"o\"]\ncmd = \"touch $OUT\"\n"),
    ];
    let loaded = loaded(&files, &["//a:g"]);
    assert_eq!(requested(&loaded), ["//a:g"]);
    let target = loaded.model.target(loaded.requested[0].target);
    assert_eq!(target.outputs.len(), 1);
    let action = loaded.model.actions.iter().position(|a| loaded.model.target(a.target).label.to_string() == "//a:g");
    let Work::Spawn(command) = loaded.commands.work(minibuild_core::ActionId::new(action.expect("made"))) else {
        panic!("a command");
    };
    assert_eq!(command.argv, ["/bin/sh", "-e", "-c", "cat $SRCS minibuild-out/bin/b/o > $OUT"]);
    let env: Vec<String> = command.env.iter().map(|(n, v)| format!("{n}={v}")).collect();
    assert_eq!(
        env,
        [
            "OUT=minibuild-out/bin/a/out.txt",
            "PATH=/usr/local/bin:/usr/bin:/bin",
            "SRC=a/in.txt",
            "SRCS=a/in.txt minibuild-out/bin/b/o",
            "X=a/in.txt!",
        ]
    );
}

const RULES: &str = r#"
[vars]
cc = { type = "tool", default = "cc" }
mode = { type = "strings", default = ["-O2"] }

[config.debug.vars]
mode = ["-g"]

[provider.c.fields]
hdrs = { type = "files" }

[rule.lib]
outputs = ["{compile.obj}"]
[rule.lib.attrs]
srcs = { type = "files", accept = { c = [".c"], hdr = [".h"] }, required = true, doc = "What to compile." }
deps = { type = "targets", providers = ["c"], doc = "Libraries." }
[rule.lib.action.compile]
mnemonic = "Compile"
for_each = "srcs.c"
outs = { obj = "{name}/{item:stem}.o" }
depfile = "{name}/{item:stem}.d"
inputs = ["{srcs.hdr}", "{deps.c.hdrs}"]
args = ["{vars.cc}", "{vars.mode}", "-c", "{item}", "-o", "{out.obj}", "-MF", "{out.depfile}"]
[rule.lib.provides.c]
hdrs = ["{srcs.hdr}", "{deps.c.hdrs}"]

[rule.script_test]
outputs = ["{main}"]
test = { executable = "{main}", runfiles = ["{data}"] }
[rule.script_test.attrs]
main = { type = "file", default = "{name}.sh" }
data = { type = "files" }
"#;

fn action_of(loaded: &Loaded, label: &str) -> minibuild_core::ActionId {
    let index = loaded.model.actions.iter().position(|a| loaded.model.target(a.target).label.to_string() == label);
    minibuild_core::ActionId::new(index.unwrap_or_else(|| panic!("no action of {label}")))
}

fn argv(loaded: &Loaded, label: &str) -> Vec<String> {
    match loaded.commands.work(action_of(loaded, label)) {
        Work::Spawn(command) => command.argv,
        Work::Write(file) => panic!("{file:?}"),
    }
}

#[test]
fn a_rule_file_end_to_end() {
    let files = [
        ("minibuild.toml", "[workspace]\nrules = [\"rules/my.toml\"]\n"),
        ("rules/my.toml", RULES),
        ("a/x.c", ""),
        ("a/x.h", ""),
        ("a/t.sh", ""),
        (
            "a/BUILD.toml",
            "[[lib]]\nname = \"l\"\nsrcs = [\"x.c\", \"x.h\"]\n[[lib]]\nname = \"m\"\nsrcs = [\"x.c\"]\ndeps = [\":l\"]\n[[script_test]]\nname = \"t\"\nargs = [\"$(location :l)\"]\ndata = [\"x.h\"]\n",
        ),
    ];
    let loaded = loaded(&files, &["//..."]);
    assert_eq!(requested(&loaded), ["//a:l", "//a:m", "//a:t"]);
    assert_eq!(
        argv(&loaded, "//a:m"),
        ["cc", "-O2", "-c", "a/x.c", "-o", "minibuild-out/bin/a/m/x.o", "-MF", "minibuild-out/bin/a/m/x.d"]
    );
    assert_eq!(argv(&loaded, "//a:t"), ["a/t.sh", "minibuild-out/bin/a/l/x.o"]);
    let explained = loaded.explain_argv(action_of(&loaded, "//a:m"));
    assert!(explained.contains("-O2") && explained.contains("rules/my.toml:23:23"), "{explained}");
    let test = loaded.model.action(action_of(&loaded, "//a:t"));
    assert_eq!(test.inputs.len(), 3);
    let library = loaded.model.action(action_of(&loaded, "//a:m"));
    assert_eq!((library.inputs.len(), library.discoverable.len(), library.host_tools.len()), (1, 1, 1));
}

#[test]
fn the_shipped_rules_end_to_end() {
    let files = [
        ("minibuild.toml", "[workspace]\nrules = [\"@std/c.toml\", \"@std/python.toml\", \"@std/rust.toml\"]\n"),
        ("a/x.c", ""),
        ("a/m.c", ""),
        ("a/x.h", ""),
        (
            "a/BUILD.toml",
            "[[c_library]]\nname = \"x\"\nsrcs = [\"x.c\"]\nhdrs = [\"x.h\"]\n[[c_binary]]\nname = \"m\"\nsrcs = [\"m.c\"]\ndeps = [\":x\"]\n[[genrule]]\nname = \"g\"\ntools = [\":m\"]\ncmd = \"$(location :m) > $OUT\"\nouts = [\"o\"]\n[[genrule]]\nname = \"h\"\nsrcs = [\":x[c]\"]\ncmd = \"cat $SRCS > $OUT\"\nouts = [\"p\"]\n",
        ),
    ];
    let loaded = loaded(&files, &["//a:m", "//a:g", "//a:x[c]", "//a:h"]);
    assert_eq!(requested(&loaded), ["//a:m", "//a:g", "//a:x", "//a:h"]);
    assert_eq!(loaded.requested[2].group.as_deref(), Some("c"));
    assert_eq!(argv(&loaded, "//a:g")[3], "minibuild-out/bin/a/m > $OUT");
}

fn settings_of(files: &[(&str, &str)], change: impl Fn(&mut ConfigInput)) -> Result<crate::Settings, String> {
    let mut input = ConfigInput::default();
    change(&mut input);
    let loaded = crate::load_settings(&MemoryFs::new(files), &input);
    loaded.map(|(settings, ..)| settings).map_err(|f| render(&f.diagnostics, &f.sources, false))
}

#[test]
fn stronger_places_win() {
    let files = [
        (
            "minibuild.toml",
            "[build]\njobs = 2\nstrategy = { CLink = \"local\" }\n[config.ci.build]\njobs = 4\n[config.x.build]\njobs = 5\n[env]\nA = \"1\"\nB = \"1\"\n",
        ),
        ("minibuild.local.toml", "[build]\njobs = 3\n[env]\nB = \"2\"\n"),
    ];
    let user = Some(("~/config.toml".to_owned(), b"[build]\njobs = 1\nsalt = \"s\"\n".to_vec()));
    let jobs = |user: UserFile, configs: &[&str], env: Option<&str>, flag: Option<&str>, files: &[(&str, &str)]| {
        let settings = settings_of(files, |input| {
            input.user_file = user.clone();
            input.configs = configs.iter().map(|c| (*c).to_owned()).collect();
            input.environment.extend(env.map(|v| ("MINIBUILD_JOBS".to_owned(), v.to_owned())));
            input.flags.extend(flag.map(|v| ("build.jobs".to_owned(), v.to_owned())));
        });
        settings.expect("valid").jobs
    };
    assert_eq!(jobs(None, &[], None, None, &[]), None);
    assert_eq!(jobs(user.clone(), &[], None, None, &[]), Some(1));
    assert_eq!(jobs(user.clone(), &[], None, None, &files[..1]), Some(2));
    assert_eq!(jobs(user.clone(), &[], None, None, &files), Some(3));
    assert_eq!(jobs(user.clone(), &["ci"], None, None, &files), Some(4));
    assert_eq!(jobs(user.clone(), &["ci", "x"], None, None, &files), Some(5));
    assert_eq!(jobs(user.clone(), &["x", "ci"], None, None, &files), Some(4));
    assert_eq!(jobs(user.clone(), &["ci"], Some("6"), None, &files), Some(6));
    assert_eq!(jobs(user.clone(), &["ci"], Some("6"), Some("7"), &files), Some(7));

    let merged = settings_of(&files, |input| input.user_file = user.clone()).expect("valid");
    assert_eq!((merged.env["A"].as_str(), merged.env["B"].as_str(), merged.salt.as_str()), ("1", "2", "s"));
    assert_eq!(merged.env["PATH"], minibuild_core::ACTION_PATH);
    assert_eq!(merged.strategy_of("CLink"), crate::Strategy::Local);
}

type UserFile = Option<(String, Vec<u8>)>;

#[test]
fn settings_from_texts() {
    let set = |key: &str, text: &str| {
        settings_of(&[], |input| input.flags.push((key.to_owned(), text.to_owned()))).map_err(|e| e.trim().to_owned())
    };
    assert_eq!(set("remote.executor", "none").map(|s| s.remote.executor), Ok(None));
    assert_eq!(set("remote.executor", "grpc://h:1").map(|s| s.remote.executor), Ok(Some("grpc://h:1".into())));
    assert_eq!(set("remote.executor", "grpc://h:1").map(|s| s.strategy_of("X")), Ok(crate::Strategy::Dynamic));
    assert_eq!(
        set("remote.executor", "h:1"),
        Err("ERROR: --remote-executor: `h:1` is no endpoint: expected grpc://, grpcs://, embedded, none".into())
    );
    assert_eq!(set("build.jobs", "0"), Err("ERROR: --jobs: 0 is out of range".into()));
    assert_eq!(set("remote.timeout", "0"), Err("ERROR: --remote-timeout: a time of more than zero is needed".into()));
    assert_eq!(set("remote.lease", "0s").map(|s| s.remote.lease), Ok(std::time::Duration::ZERO));
    for key in ["build.jobs", "remote.jobs"] {
        assert!(set(key, "10000").is_ok());
        for absurd in ["10001", "65538", "4294967295"] {
            assert!(set(key, absurd).is_err_and(|e| e.contains(absurd) && e.contains("10000 at most")), "{key}");
        }
    }
    assert_eq!(set("build.jobs", "x"), Err("ERROR: --jobs: `x` is no number".into()));
    assert_eq!(
        set("build.strategy", "sandboxed"),
        Err("ERROR: --strategy: `sandboxed` is reserved for a later version".into())
    );
    assert_eq!(set("build.strategy", "A=remote").map(|s| s.strategy_of("A")), Ok(crate::Strategy::Remote));
    assert_eq!(set("build.download_regex", "("), Err("ERROR: --download-regex: `(` is no regular expression".into()));
    assert_eq!(set("build.disk_cache_size", "2GiB").map(|s| s.disk_cache_size), Ok(Some(2 << 30)));
    assert_eq!(
        set("remote.headers", "authorization: Bearer S3CRET"),
        Err("ERROR: --remote-header: a header is not of the form NAME=VALUE".into())
    );
    assert_eq!(
        set("remote.cache", "u:S3CRET@h"),
        Err("ERROR: --remote-cache: `h` is no endpoint: expected grpc://, grpcs://, http://, https://, none".into())
    );
    let headers = settings_of(&[], |input| {
        let lines = "authorization=Bearer secret=1\n x=2 \n\n";
        input.environment.insert("MINIBUILD_REMOTE_HEADERS".into(), lines.into());
    });
    let headers = headers.expect("valid").remote.headers.0;
    assert_eq!((&*headers["authorization"], &*headers["x"]), ("Bearer secret=1", "2"));
    let headers = set("remote.headers", "authorization=secret").expect("valid").remote.headers;
    assert_eq!(headers.0["authorization"], "secret");
    assert!(!format!("{headers:?}").contains("secret"));
    let both = settings_of(&[], |input| {
        for text in ["a.*", "b"] {
            input.flags.push(("build.download_regex".into(), text.into()));
        }
    });
    assert_eq!(both.map(|s| s.download_regex), Ok(vec!["a.*".to_owned(), "b".to_owned()]));
}

#[test]
fn errors_in_a_configuration_do_not_show_secrets() {
    for text in [
        "[remote]\nheader = { authorization = \"S3CRET\" }\n",
        "[remote]\nheaders = \"authorization=S3CRET\"\n",
        "[remote]\nheaders = { a = \"S3CRET\", b = 5 }\n",
        "[remote]\nheaders = { a = \"S3CRET }\n",
        "[remote]\ncache = \"http:/u:S3CRET@h/\"\n",
        "[remote]\nexecutor = [\"grpc://u:S3CRET@h\"]\n",
        "[build]\nheaders = { a = \"S3CRET\" }\n",
    ] {
        for file in ["minibuild.toml", "minibuild.local.toml"] {
            let printed = errors(&[("minibuild.toml", ""), (file, text), ("BUILD.toml", "")], &["//..."]);
            assert!(printed.contains(&format!("{file}:2:")) && !printed.contains("S3CRET"), "{printed}");
        }
    }
}

#[test]
fn unknown_variables_of_the_environment_are_compared_without_their_prefix() {
    let warned = |name: &str| {
        let mut request = request(&["//..."]);
        request.config.environment.insert(name.into(), "x".into());
        let loaded = load(&MemoryFs::new(&[("BUILD.toml", "")]), &request).ok().expect("a warning only");
        render(&loaded.warnings, &loaded.sources, false)
    };
    assert!(warned("MINIBUILD_JBOS").contains("hint: did you mean `MINIBUILD_JOBS`?"));
    assert!(!warned("MINIBUILD_FOO").contains("hint"), "{}", warned("MINIBUILD_FOO"));
}

#[test]
fn what_patterns_mean() {
    let group = |names: &[&str]| {
        let target = |n: &&str| match n.strip_suffix('!') {
            Some(n) => format!("[[filegroup]]\nname = \"{n}\"\ntags = [\"manual\"]\n"),
            None => format!("[[filegroup]]\nname = \"{n}\"\n"),
        };
        names.iter().map(target).collect::<String>()
    };
    let (root, a, ab, c) = (group(&["r"]), group(&["a", "m!"]), group(&["x"]), group(&["y"]));
    let files = [
        ("minibuild.toml", "[workspace]\nignore = [\"skip\"]\n"),
        ("BUILD.toml", root.as_str()),
        ("a/BUILD.toml", a.as_str()),
        ("a/b/BUILD.toml", ab.as_str()),
        ("ab/BUILD.toml", c.as_str()),
        ("skip/deep/BUILD.toml", "bad ["),
        ("minibuild-out/bin/BUILD.toml", "bad ["),
        (".git/BUILD.toml", "bad ["),
    ];
    let check = |patterns: &[&str], expected: &str| {
        assert_eq!(requested(&loaded(&files, patterns)).join(" "), expected, "{patterns:?}");
    };
    check(&["//..."], "//:r //a:a //a/b:x //ab:y");
    check(&["//a/..."], "//a:a //a/b:x");
    check(&["//a:all"], "//a:a");
    check(&["//a", "//a:m", "//a:a"], "//a:a //a:m");
    check(&["//...", "-//a/..."], "//:r //ab:y");
    check(&["//a:m", "-//a:all"], "");
    check(&["-//a:a", "//a:a"], "//a:a");
    let from_a = |pattern: &str| {
        let mut request = request(&[pattern]);
        request.cwd = "a".into();
        load(&MemoryFs::new(&files), &request)
            .map_err(|f| render(&f.diagnostics, &f.sources, false))
            .map(|l| requested(&l).join(" "))
    };
    assert_eq!(from_a("m"), Ok("//a:m".into()));
    assert_eq!(from_a("..."), Ok("//a:a //a/b:x".into()));
    assert_eq!(from_a("b:x"), Ok("//a/b:x".into()));
    assert_eq!(from_a(":all"), Ok("//a:a".into()));
    assert!(from_a("b").is_err_and(|e| e.contains("no target `b` in package `//a/b`")));
    assert!(errors(&files, &["//ac/..."]).contains("there is no package at or below `//ac`"));
    assert!(errors(&files, &["//skip/deep:x"]).contains("no package `//skip/deep`"));
    assert!(errors(&files, &["//a:aa"]).contains("the package has `:a`, `:m`"));
    assert!(errors(&files, &["//a:a[c]"]).contains("`//a:a` has no output group `c`"));
}

#[test]
fn only_what_is_reached_is_read() {
    let files = [
        ("a/BUILD.toml", "[[filegroup]]\nname = \"a\"\nsrcs = [\"//b\"]\n"),
        ("b/BUILD.toml", "[[filegroup]]\nname = \"b\"\n"),
        ("c/BUILD.toml", "not toml at all"),
    ];
    assert_eq!(loaded(&files, &["//a"]).packages.iter().map(|p| p.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert!(errors(&files, &["//..."]).contains("c/BUILD.toml:1:"));
}

#[test]
fn files_that_are_not_utf8() {
    let mut fs = MemoryFs::new(&[
        ("a/BUILD.toml", "[[filegroup]]\nname = \"f\"\nsrcs = [{ glob = [\"*.c\"] }]\n"),
        ("a/x.c", ""),
    ]);
    fs.bad_name("a", "b\u{fffd}.h", EntryKind::File);
    let outcome = |fs: &MemoryFs| match load(fs, &request(&["//a:f"])) {
        Ok(loaded) => format!("{} files", loaded.model.artifacts.len()),
        Err(failure) => render(&failure.diagnostics, &failure.sources, false),
    };
    assert_eq!(outcome(&fs), "1 files");
    fs.bad_name("a", "b\u{fffd}.c", EntryKind::File);
    assert!(outcome(&fs).contains("matches `b\u{fffd}.c`, whose name is not UTF-8"), "{}", outcome(&fs));
    fs.file("a/BUILD.toml", b"x = 1\n# \xff");
    assert!(outcome(&fs).contains("`a/BUILD.toml` is not UTF-8: line 2, column 3"), "{}", outcome(&fs));
}

#[test]
fn globs_and_links() {
    let mut fs = MemoryFs::new(&[
        (
            "a/BUILD.toml",
            "[[filegroup]]\nname = \"f\"\nsrcs = [{ glob = [\"**/*.c\", \"x/?.h\"], exclude = [\"x/no*\"] }]\n",
        ),
        ("a/z.c", ""),
        ("a/x/y.c", ""),
        ("a/x/no.c", ""),
        ("a/x/h.h", ""),
        ("a/x/hh.h", ""),
        ("a/p/BUILD.toml", ""),
        ("a/p/q.c", ""),
        ("a/p/deep/q.c", ""),
        ("other/o.c", ""),
    ]);
    fs.link("a/link.c", "a/z.c");
    fs.link("a/dir.c", "other");
    // As Emacs marks a file that is not saved.
    fs.link("a/.#z.c", "somebody@host.1:2");
    let loaded =
        load(&fs, &request(&["//a:f"])).unwrap_or_else(|f| panic!("{}", render(&f.diagnostics, &f.sources, false)));
    let mut paths: Vec<&str> = loaded.model.artifacts.iter().map(|a| a.path.as_str()).collect();
    paths.sort_unstable();
    assert_eq!(paths, ["a/link.c", "a/x/h.h", "a/x/y.c", "a/z.c"]);
}

#[test]
fn a_directory_that_no_glob_can_enter_is_an_error_or_excluded() {
    let outcome = |glob: &str| {
        let build = format!("[[filegroup]]\nname = \"f\"\nsrcs = [{{ {glob} }}]\n");
        let mut fs = MemoryFs::new(&[("a/BUILD.toml", &build), ("a/x.c", "")]);
        fs.bad_name("a", "caf\u{fffd}", EntryKind::Directory);
        match load(&fs, &request(&["//a:f"])) {
            Ok(loaded) => format!("{} files", loaded.model.artifacts.len()),
            Err(failure) => render(&failure.diagnostics, &failure.sources, false),
        }
    };
    assert_eq!(outcome("glob = [\"*.c\"]"), "1 files");
    let refused = outcome("glob = [\"**/*.c\"]");
    assert!(refused.contains("glob `**/*.c` enters `caf\u{fffd}`, whose name is not UTF-8"), "{refused}");
    assert!(refused.contains("hint: rename it, or leave it out by `exclude`"), "{refused}");
    assert_eq!(outcome("glob = [\"**/*.c\"], exclude = [\"caf*\"]"), "1 files");
    assert_eq!(outcome("glob = [\"**/*.c\"], exclude = [\"caf*/**\"]"), "1 files");
}

#[test]
fn a_glob_that_is_too_large_is_an_error() {
    for (glob, expected) in [
        ("{".repeat(250) + "a" + &"}".repeat(250), "it has more than 50 alternatives"),
        ("[!a]".repeat(300_000), "it is longer than 4096 bytes"),
        ("[!a]".repeat(1000), "bad glob"),
        ("{a,b}".repeat(50), "the glob matches nothing"),
    ] {
        for list in [format!("glob = [\"{glob}\"]"), format!("glob = [\"*.c\"], exclude = [\"{glob}\"]")] {
            let build = format!("[[filegroup]]\nname = \"f\"\nsrcs = [{{ {list} }}]\n");
            let printed = errors(&[("a/BUILD.toml", &build), ("a/x.c", "")], &["//a:f"]);
            let is_fine = printed == "loaded" && (list.contains("exclude") || expected == "bad glob");
            let cut: String = printed.chars().take(200).collect();
            assert!(is_fine || printed.contains(expected) || printed.contains("matches nothing"), "{cut}");
        }
    }
}

#[test]
fn a_package_that_no_label_can_name_is_an_error() {
    let files = [("minibuild.toml", ""), ("BUILD.toml", ""), ("my tests/BUILD.toml", ""), ("b#/ok/BUILD.toml", "")];
    let printed = errors(&files, &["//..."]);
    let expected = "ERROR: `my tests` has a BUILD.toml, but its path names no package: each part may hold letters, \
                    digits and `_.+=,@~-`\n |\n = hint: rename the directory\n = hint: to leave it out, add its path to \
                    `[workspace] ignore` in minibuild.toml\n";
    assert!(printed.contains(expected) && printed.contains("`b#/ok` has a BUILD.toml"), "{printed}");
    let ignored = [("minibuild.toml", "[workspace]\nignore = [\"my tests\", \"b#\"]\n"), files[1], files[2], files[3]];
    assert_eq!(errors(&ignored, &["//..."]), "loaded");
}

#[test]
fn a_file_of_minibuild_s_that_cannot_be_read_is_not_taken_for_absent() {
    let mut fs = MemoryFs::new(&[("BUILD.toml", ""), ("dir/BUILD.toml/x", "")]);
    for link in ["a/BUILD.toml", "minibuild.toml", "minibuild.local.toml"] {
        fs.link(link, "gone");
    }
    let failure = load(&fs, &request(&["//..."])).err().expect("an error");
    let printed = render(&failure.diagnostics, &failure.sources, false);
    for path in ["a/BUILD.toml", "minibuild.toml", "minibuild.local.toml"] {
        assert!(printed.contains(&format!("cannot read `{path}`: the symlink leads nowhere")), "{printed}");
    }
    assert!(printed.contains("cannot read `dir/BUILD.toml`"), "{printed}");
    for label in ["//a:x", "//dir:x"] {
        let failure = load(&fs, &request(&[label])).err().expect("an error");
        let printed = render(&failure.diagnostics, &failure.sources, false);
        assert!(printed.contains("cannot read `") && !printed.contains("no package"), "{printed}");
    }
}

#[test]
fn nested_workspaces_and_output_directories_are_not_entered() {
    let build = "[[filegroup]]\nname = \"all\"\nsrcs = [{ glob = [\"**/*.txt\"] }, \"sub/named.txt\"]\n";
    let mut files = vec![
        ("minibuild.toml", ""),
        ("BUILD.toml", build),
        ("a.txt", ""),
        ("sub/minibuild.toml", ""),
        ("sub/BUILD.toml", "[[filegroup]]\nname = \"x\"\nsrcs = [\"named.txt\"]\n"),
        ("sub/named.txt", ""),
        ("sub/other.txt", ""),
        ("sub/deep/BUILD.toml", "not TOML"),
        ("d/minibuild-out/bin/gen.txt", ""),
        ("d/minibuild-out/BUILD.toml", "not TOML"),
        ("d/.git/index.txt", ""),
        ("d/.git/BUILD.toml", "not TOML"),
    ];
    let found = loaded(&files, &["//..."]);
    assert_eq!(requested(&found), ["//:all"]);
    let mut paths: Vec<&str> = found.model.artifacts.iter().map(|a| a.path.as_str()).collect();
    paths.sort_unstable();
    assert_eq!(paths, ["a.txt", "sub/named.txt"]);
    for pattern in ["//sub:x", "//sub:all", "//sub/...", "//sub/deep:x"] {
        let printed = errors(&files, &[pattern]);
        assert!(printed.contains("is in the workspace `sub`, not in this one"), "{pattern}: {printed}");
        assert!(printed.contains("hint: build it there, with `-C sub`"), "{pattern}: {printed}");
        assert_eq!(printed.matches("ERROR").count(), 1, "{pattern}: {printed}");
    }
    let globs = "[[filegroup]]\nname = \"all\"\nsrcs = [{ glob = [\"sub/*.txt\", \"d/minibuild-out/**\"] }, { glob = [\"d/.git/*\"] }]\n";
    files[1].1 = globs;
    let printed = errors(&files, &["//:all"]);
    assert!(printed.contains("glob `sub/*.txt` enters `sub`, which is a workspace of its own"), "{printed}");
    assert!(printed.contains("glob `d/.git/*` enters `d/.git`, which holds no sources"), "{printed}");
}

#[test]
fn rsp_files_tools_and_tests() {
    let build = r#"
[[filegroup]]
name = "many"
srcs = ["x.c", "y.c"]
[[genrule]]
name = "tool"
outs = ["tool.sh"]
cmd = "touch $OUT"
[[test]]
name = "t"
executable = ":tool"
args = ["--in", "$(locations :many)"]
data = ["x.c"]
tags = ["exclusive"]
[[alias]]
name = "al"
actual = ":t"
[[genrule]]
name = "r"
outs = ["o"]
out_dirs = ["dir"]
depfile = "o.d"
inputs = [":many"]
tools = [":t"]
args = ["$(location :al)", "@$(location r.rsp)", "$(location o.d)", "$(location o)"]
rspfile = { path = "r.rsp", content = ["-o", "$(locations :many)"] }
"#;
    let loaded = loaded(&[("a/BUILD.toml", build), ("a/x.c", ""), ("a/y.c", "")], &["//a:all"]);
    let Work::Spawn(command) = loaded.commands.work(action_of(&loaded, "//a:r")) else { panic!("a command") };
    let bin = "minibuild-out/bin/a";
    let argv_of_r: Vec<&str> = command.argv.iter().map(|a| a.trim_start_matches("@").trim_start_matches(bin)).collect();
    assert_eq!(argv_of_r, ["/tool.sh", "/r.rsp", "/o.d", "/o"]);
    assert_eq!(command.files.len(), 1);
    assert_eq!(String::from_utf8_lossy(&command.files[0].content), "-o\na/x.c\na/y.c\n");
    assert_eq!(command.env["OUT_DIR"], format!("{bin}/dir"));
    let action = loaded.model.action(action_of(&loaded, "//a:r"));
    assert_eq!(action.depfile.as_ref().map(|d| d.to_string()), Some(format!("{bin}/o.d")));
    assert_eq!(action.discoverable.len(), 2);
    assert_eq!(argv(&loaded, "//a:t"), ["minibuild-out/bin/a/tool.sh", "--in", "a/x.c a/y.c"]);
    let alias = loaded.model.targets.iter().find(|t| t.label.name() == "al").expect("loaded");
    assert!(alias.test.is_some() && alias.run.is_some() && alias.alias_of.is_some());
    assert!(loaded.model.action(action_of(&loaded, "//a:t")).tags.exclusive);
}
