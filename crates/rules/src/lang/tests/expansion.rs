//! Expansion, argument for argument.

use super::harness::{C, CODEGEN, JS, PYTHON, RUST, V, World};
use V::{L, S};

#[test]
fn the_files_of_the_contract_compile() {
    World::new(&[C, PYTHON, RUST, CODEGEN, JS]).clean();
    for file in [C, PYTHON, JS] {
        World::new(&[file]).clean();
    }
    World::new(&[C, RUST]).clean();
}

#[test]
fn lua_comes_out_as_the_contract_expands_it_by_hand() {
    let mut world = World::new(&[C]);
    let headers = ["lobject.h", "lstate.h"].map(|name| world.source(&format!("third_party/lua/{name}")));
    world.files("//third_party/lua:internal_headers", headers.to_vec());
    world.target(
        "c_library",
        "//third_party/lua:liblua",
        &[
            ("output", S("liblua.a")),
            ("srcs", L(vec!["lapi.c", "lauxlib.c", "lzio.c", ":internal_headers"])),
            ("hdrs", L(vec!["lua.h", "luaconf.h"])),
            ("includes", L(vec!["."])),
            ("local_defines", L(vec!["LUA_COMPAT_5_3", "LUA_USE_LINUX"])),
            ("linkopts", L(vec!["-lm", "-ldl"])),
        ],
    );
    world.target(
        "c_binary",
        "//third_party/lua:lua",
        &[
            ("srcs", L(vec!["lua.c", "lprefix.h"])),
            ("deps", L(vec![":liblua"])),
            ("local_defines", L(vec!["LUA_COMPAT_5_3", "LUA_USE_LINUX"])),
            ("linkopts", L(vec!["-Wl,-E"])),
        ],
    );
    world.clean();
    let lib = "//third_party/lua:liblua";
    assert_eq!(
        world.argv(lib, 0),
        "cc -O2 -DLUA_COMPAT_5_3 -DLUA_USE_LINUX -iquote . -iquote minibuild-out/bin -Ithird_party/lua \
         -Iminibuild-out/bin/third_party/lua -MMD -MF minibuild-out/bin/third_party/lua/liblua.objs/lapi.c.d -c \
         third_party/lua/lapi.c -o minibuild-out/bin/third_party/lua/liblua.objs/lapi.c.o"
    );
    assert_eq!(
        world.argv(lib, 3),
        "ar rcsD minibuild-out/bin/third_party/lua/liblua.a minibuild-out/bin/third_party/lua/liblua.objs/lapi.c.o \
         minibuild-out/bin/third_party/lua/liblua.objs/lauxlib.c.o minibuild-out/bin/third_party/lua/liblua.objs/lzio.c.o"
    );
    let lua = "//third_party/lua:lua";
    assert_eq!(
        world.argv(lua, 0),
        "cc -O2 -DLUA_COMPAT_5_3 -DLUA_USE_LINUX -iquote . -iquote minibuild-out/bin -Ithird_party/lua \
         -Iminibuild-out/bin/third_party/lua -MMD -MF minibuild-out/bin/third_party/lua/lua.objs/lua.c.d -c \
         third_party/lua/lua.c -o minibuild-out/bin/third_party/lua/lua.objs/lua.c.o"
    );
    assert_eq!(
        world.argv(lua, 1),
        "cc -O2 -o minibuild-out/bin/third_party/lua/lua minibuild-out/bin/third_party/lua/lua.objs/lua.c.o \
         minibuild-out/bin/third_party/lua/liblua.a -lm -ldl -Wl,-E"
    );
}

/// Libraries `base`, `left`, `right` and a program above them, in package `d`.
fn diamond(extra: &[(&'static str, V)]) -> World {
    let mut world = World::new(&[C]);
    let library = |world: &mut World, name: &str, deps: Vec<&'static str>, extra: &[(&'static str, V)]| {
        let (src, hdr): (&'static str, &'static str) = match name {
            "base" => ("base.c", "base.h"),
            "left" => ("left.c", "left.h"),
            _ => ("right.cc", "right.h"),
        };
        let mut attrs =
            vec![("srcs", L(vec![src])), ("hdrs", L(vec![hdr])), ("deps", L(deps)), ("includes", L(vec!["."]))];
        attrs.extend(extra.iter().cloned());
        world.target("c_library", &format!("//d:{name}"), &attrs);
    };
    library(&mut world, "base", vec![], extra);
    library(
        &mut world,
        "left",
        vec![":base"],
        &[("linkopts", L(vec!["-framework", "X"])), ("defines", L(vec!["LEFT"]))],
    );
    library(&mut world, "right", vec![":base"], &[("linkopts", L(vec!["-framework", "Y"]))]);
    world.target("c_binary", "//d:top", &[("srcs", L(vec!["top.c"])), ("deps", L(vec![":left", ":right"]))]);
    world.clean();
    world
}

#[test]
fn a_diamond_links_each_archive_before_what_it_needs() {
    let world = diamond(&[("linkopts", L(vec!["-lm"]))]);
    assert_eq!(
        world.argv("//d:top", 1),
        "cc -O2 -o minibuild-out/bin/d/top minibuild-out/bin/d/top.objs/top.c.o minibuild-out/bin/d/libleft.a -framework X \
         minibuild-out/bin/d/libright.a -framework Y -lstdc++ -lm minibuild-out/bin/d/libbase.a -lm"
    );
    let compile = world.row("//d:top", 0);
    assert_eq!(world.paths(&compile.inputs), ["d/top.c"]);
    let mut headers = world.paths(&compile.discoverable);
    headers.sort();
    assert_eq!(headers, ["d/base.h", "d/left.h", "d/right.h"], "private headers stay private, public ones come along");
    assert_eq!(compile.depfile.as_ref().map(|path| path.as_str()), Some("minibuild-out/bin/d/top.objs/top.c.d"));
    assert!(world.argv("//d:top", 0).contains("-DLEFT "), "{}", world.argv("//d:top", 0));
    assert!(world.argv("//d:right", 0).starts_with("c++ "), "C++ is compiled by its own driver");
    let mut inputs = world.input_paths("//d:top", 1);
    inputs.sort();
    let out = |name: &str| super::harness::bin(&format!("d/{name}"));
    assert_eq!(inputs, [out("libbase.a"), out("libleft.a"), out("libright.a"), out("top.objs/top.c.o")]);
}

#[test]
fn alwayslink_keeps_its_three_words_together() {
    let world = diamond(&[("alwayslink", V::B(true))]);
    let argv = world.argv("//d:top", 1);
    let whole = "-Wl,--whole-archive minibuild-out/bin/d/libbase.a -Wl,--no-whole-archive";
    assert!(argv.ends_with(whole), "{argv}");
    assert_eq!(argv.matches("whole-archive").count(), 2);
}

#[test]
fn a_library_without_sources_has_no_archive() {
    let mut world = World::new(&[C]);
    world.target("c_library", "//h:only", &[("hdrs", L(vec!["only.h"])), ("linkopts", L(vec!["-lz"]))]);
    world.target("c_binary", "//h:p", &[("srcs", L(vec!["p.c"])), ("deps", L(vec![":only"]))]);
    world.clean();
    assert!(world.of("//h:only").outputs.is_empty());
    assert_eq!(world.actions("//h:only").len(), 0);
    assert_eq!(world.argv("//h:p", 1), "cc -O2 -o minibuild-out/bin/h/p minibuild-out/bin/h/p.objs/p.c.o -lz");
}

#[test]
fn implementation_deps_are_linked_and_not_passed_on() {
    let mut world = World::new(&[C]);
    world.target(
        "c_library",
        "//i:hidden",
        &[("srcs", L(vec!["hidden.c"])), ("hdrs", L(vec!["hidden.h"])), ("defines", L(vec!["HIDDEN"]))],
    );
    world.target("c_library", "//i:mid", &[("srcs", L(vec!["mid.c"])), ("implementation_deps", L(vec![":hidden"]))]);
    world.target("c_binary", "//i:top", &[("srcs", L(vec!["top.c"])), ("deps", L(vec![":mid"]))]);
    world.clean();
    assert!(world.argv("//i:mid", 0).contains("-DHIDDEN"));
    assert!(!world.argv("//i:top", 0).contains("HIDDEN"));
    assert!(world.paths(&world.row("//i:top", 0).discoverable).is_empty());
    assert!(world.argv("//i:top", 1).ends_with("libmid.a minibuild-out/bin/i/libhidden.a"));
}

#[test]
fn past_the_limit_objects_go_into_a_response_file() {
    let mut world = World::new(&[C]);
    let names: Vec<&'static str> =
        (0..2000).map(|n| &*Box::leak(format!("file with blank {n}.c").into_boxed_str())).collect();
    world.target("c_library", "//many:lib", &[("srcs", L(names))]);
    world.clean();
    let command = world.command("//many:lib", 2000);
    assert_eq!(command.argv, ["ar", "rcsD", "minibuild-out/bin/many/liblib.a", "@minibuild-out/bin/many/liblib.a.rsp"]);
    let [file] = &command.files[..] else { panic!("one response file") };
    assert_eq!(file.path.as_str(), "minibuild-out/bin/many/liblib.a.rsp");
    let text = String::from_utf8(file.content.clone()).expect("text");
    assert_eq!(text.lines().next(), Some("minibuild-out/bin/many/lib.objs/file\\ with\\ blank\\ 0.c.o"));
    assert_eq!((text.lines().count(), world.input_paths("//many:lib", 2000).len()), (2000, 2000));
}

#[test]
fn what_a_tree_artifact_holds_is_compiled_by_a_shell_text_that_is_no_template() {
    let mut world = World::new(&[C, CODEGEN]);
    world.target("idl_library", "//g:base", &[("srcs", L(vec!["base.idl"]))]);
    world.target("idl_library", "//g:idl", &[("srcs", L(vec!["a.idl"])), ("deps", L(vec![":base"]))]);
    world.target(
        "c_idl",
        "//g:gen",
        &[("idl", L(vec![":idl"])), ("generator", L(vec!["gen.sh"])), ("opts", L(vec!["--doc=$(location a.txt)"]))],
    );
    world.target("c_library", "//g:lib", &[("srcs", L(vec![":gen"])), ("deps", L(vec![":gen"]))]);
    world.clean();
    assert_eq!(
        world.argv("//g:gen", 0),
        "g/gen.sh --out=minibuild-out/bin/g/gen.gen --import=g/base.idl --import=g/a.idl --doc=g/a.txt g/a.idl"
    );
    assert_eq!(world.input_paths("//g:gen", 0), ["g/gen.sh", "g/a.idl", "g/base.idl", "g/a.txt"]);
    let compile = world.command("//g:lib", 0);
    assert_eq!(&compile.argv[..3], ["/bin/sh", "-e", "-c"]);
    assert!(compile.argv[3].contains("find \"$TREE\" -name '*.c'"), "{}", compile.argv[3]);
    assert_eq!(
        compile.argv[4..].join(" "),
        "sh cc -r -nostdlib -O2 -iquote . -iquote minibuild-out/bin -Iminibuild-out/bin/g/gen.gen -Iminibuild-out/bin/g/gen.gen \
         -o minibuild-out/bin/g/lib.objs/gen.gen.o"
    );
    assert_eq!(compile.env["TREE"], "minibuild-out/bin/g/gen.gen");
    assert_eq!(world.input_paths("//g:lib", 0), ["minibuild-out/bin/g/gen.gen"]);
}

#[test]
fn a_rule_around_a_program_of_another_one() {
    let mut world = World::new(&[C, CODEGEN]);
    world.target("c_binary", "//s:app", &[("srcs", L(vec!["app.c"])), ("data", L(vec!["app.txt"]))]);
    world.target("stripped", "//s:small", &[("program", L(vec![":app"]))]);
    world.clean();
    assert_eq!(world.argv("//s:small", 0), "strip -o minibuild-out/bin/s/small minibuild-out/bin/s/app");
    let run = world.of("//s:small").run.clone().expect("it can be run");
    assert_eq!(
        (world.path(run.executable), world.paths(&run.runfiles)),
        (super::harness::bin("s/small"), vec!["s/app.txt".to_owned()])
    );
    let tools: Vec<&str> = world
        .row("//s:small", 0)
        .host_tools
        .iter()
        .map(|id| &*world.builder.model.host_tools[id.index()].program)
        .collect();
    assert_eq!(tools, ["strip"]);
}

#[test]
fn the_launcher_of_a_python_program() {
    let mut world = World::new(&[PYTHON]);
    world.target(
        "py_library",
        "//p/lib:lib",
        &[("srcs", L(vec!["lib.py"])), ("imports", L(vec!["src"])), ("data", L(vec!["lib.txt"]))],
    );
    world.target("py_binary", "//p:app", &[("deps", L(vec!["//p/lib:lib"])), ("imports", L(vec!["."]))]);
    world.clean();
    let expected = "#!/bin/sh\n# //p:app: runs p/app.py. Made by minibuild.\nhere=$(cd \"$(dirname \"$0\")\" && pwd)\n\
                    root=${here%/minibuild-out/bin*}\npath=$root:$root/minibuild-out/bin\n\
                    path=$path:$root/p:$root/minibuild-out/bin/p\npath=$path:$root/p/lib/src\npath=$path:$root/minibuild-out/bin/p/lib/src\n\
                    py=python3\ncase $py in /*) ;; */*) py=$root/$py ;; esac\n\
                    PYTHONPATH=$path PYTHONDONTWRITEBYTECODE=1 exec \"$py\" \"$root/p/app.py\" \"$@\"\n";
    assert_eq!(world.written("//p:app", 0), expected);
    let run = world.of("//p:app").run.clone().expect("it can be run");
    assert_eq!(world.paths(&run.runfiles), ["p/app.py", "p/lib/lib.py", "p/lib/lib.txt"]);
    let interpreter: Vec<&str> =
        run.host_tools.iter().map(|id| &*world.builder.model.host_tools[id.index()].program).collect();
    assert_eq!(interpreter, ["python3"], "the interpreter is part of what a test is keyed by");
    assert!(world.row("//p:app", 0).inputs.is_empty(), "what a written file names is no input");
}

#[test]
fn rust_crates() {
    let mut world = World::new(&[C, RUST]);
    world.target("c_library", "//r:native", &[("srcs", L(vec!["native.c"])), ("linkopts", L(vec!["-lm"]))]);
    world.target("rust_library", "//r:low", &[("srcs", L(vec!["src/lib.rs"])), ("native_deps", L(vec![":native"]))]);
    world.target(
        "rust_library",
        "//r:mid",
        &[
            ("srcs", L(vec!["mid/lib.rs"])),
            ("root", S("mid/lib.rs")),
            ("deps", L(vec![":low"])),
            ("features", L(vec!["std"])),
        ],
    );
    let env = V::E(vec![("CARGO_PKG_VERSION", "1.0"), ("KEY", "$(location key.txt)")]);
    world.target(
        "rust_binary",
        "//r:app",
        &[("srcs", L(vec!["src/main.rs"])), ("deps", L(vec![":mid"])), ("rustc_env", env)],
    );
    world.clean();
    let argv = |label| {
        let through_shell = "/bin/sh -c exec \"$0\" \"--remap-path-prefix=$PWD=.\" \"$@\" ";
        world.argv(label, 0).strip_prefix(through_shell).expect("it begins with that").to_owned()
    };
    assert_eq!(
        argv("//r:mid"),
        "rustc --crate-name=mid --edition=2021 -Cmetadata=//r:mid -Copt-level=2 --cfg feature=\"std\" \
         --extern=low=minibuild-out/bin/r/liblow.rlib -Ldependency=minibuild-out/bin/r --crate-type=rlib \
         --emit=dep-info=minibuild-out/bin/r/mid.d,link=minibuild-out/bin/r/libmid.rlib r/mid/lib.rs"
    );
    assert_eq!(
        argv("//r:app"),
        "rustc --crate-name=app --edition=2021 -Cmetadata=//r:app -Copt-level=2 --extern=mid=minibuild-out/bin/r/libmid.rlib \
         -Ldependency=minibuild-out/bin/r --crate-type=bin -Clinker=cc -Clink-arg=minibuild-out/bin/r/libnative.a -Clink-arg=-lm \
         --emit=dep-info=minibuild-out/bin/r/app.d,link=minibuild-out/bin/r/app r/src/main.rs"
    );
    let command = world.command("//r:app", 0);
    assert_eq!((command.env["CARGO_PKG_VERSION"].as_str(), command.env["KEY"].as_str()), ("1.0", "r/key.txt"));
    let row = world.row("//r:app", 0);
    let all: Vec<_> = row.inputs.iter().chain(row.discoverable.iter()).copied().collect();
    let mut inputs = world.paths(&all);
    inputs.sort();
    let out = |name: &str| super::harness::bin(&format!("r/{name}"));
    assert_eq!(
        inputs,
        [out("liblow.rlib"), out("libmid.rlib"), out("libnative.a"), "r/key.txt".into(), "r/src/main.rs".into()]
    );
    let tools: Vec<&str> =
        row.host_tools.iter().map(|id| &*world.builder.model.host_tools[id.index()].program).collect();
    assert_eq!(tools, ["rustc", "cc"]);
}

#[test]
fn variables_are_replaced_by_configurations_and_flags() {
    let compile = |configs: &[&str], flags: Vec<crate::lang::Setting>| {
        let mut world = World::with_vars(&[C], configs, flags);
        world.target("c_binary", "//v:p", &[("srcs", L(vec!["p.c"]))]);
        world.clean();
        world.argv("//v:p", 1)
    };
    let rest = "-o minibuild-out/bin/v/p minibuild-out/bin/v/p.objs/p.c.o";
    assert_eq!(compile(&["debug"], Vec::new()), format!("cc -O0 -g {rest}"));
    assert_eq!(compile(&["debug", "opt"], Vec::new()), format!("cc -O3 -DNDEBUG {rest}"));
    let flags = vec![super::harness::setting("cc", "clang"), super::harness::setting("c_mode", "[\"-Og\", '-g3']")];
    assert_eq!(compile(&["debug"], flags), format!("clang -Og -g3 {rest}"));
}

#[test]
fn settings_that_do_not_fit() {
    let check = |name: &str, value: &str, expected: &str| {
        let world = World::with_vars(&[C, RUST], &[], vec![super::harness::setting(name, value)]);
        let found = world.complaints();
        assert!(found.starts_with(expected), "{found}");
    };
    check("cd", "x", "--var: no variable `cd` is declared; hint: did you mean `cc`?");
    check(
        "c_mode",
        "-O2",
        "--var: `vars.c_mode` is a list and is written as a TOML array such as `[\"a\", \"b\"]`, not `-O2`; `c_mode` is declared here @std/c.toml:9:1 [c_mode]",
    );
    check(
        "rust_edition",
        "2020",
        "--var: `2020` is no value of `vars.rust_edition`: it is one of `2015`, `2018`, `2021`, `2024`",
    );
    check("cc", "", "--var: `vars.cc` needs the name of a program or a label");
}

#[test]
fn a_tool_variable_that_is_a_label_is_an_input_with_its_runfiles() {
    let mut world = World::with_vars(&[C, PYTHON], &[], vec![super::harness::setting("cc", "//tools:cc")]);
    world.target("py_binary", "//tools:cc", &[("main", S("cc.py"))]);
    let id = world.id("//tools:cc");
    let mut vars = (*world.vars).clone();
    let labels: Vec<(crate::lang::VarId, String)> =
        vars.tool_labels().map(|(id, label)| (id, label.to_owned())).collect();
    assert_eq!(labels.len(), 1);
    vars.set_tool(labels[0].0, crate::attr::ToolValue::Target(id));
    world.vars = std::sync::Arc::new(vars);
    world.target("c_library", "//t:lib", &[("srcs", L(vec!["a.c"]))]);
    world.clean();
    assert!(world.argv("//t:lib", 0).starts_with("minibuild-out/bin/tools/cc -O2 "));
    assert_eq!(
        world.input_paths("//t:lib", 0),
        [super::harness::bin("tools/cc"), "tools/cc.py".into(), "t/a.c".into()]
    );
    let row = world.row("//t:lib", 0);
    let tools: Vec<&str> =
        row.host_tools.iter().map(|id| &*world.builder.model.host_tools[id.index()].program).collect();
    assert_eq!(tools, ["python3"], "the interpreter of the tool counts, the replaced cc does not");
}

/// One rule with these keys in its action `x`, one target of it in package `pkg` (or at the root).
fn one_rule(attrs: &str, action: &str, label: &str, values: &[(&'static str, V)]) -> World {
    let text = format!(
        "[vars]\nos_flag = {{ type = \"bool\", default = false }}\n[rule.r]\noutputs = [\"{{x.o}}\"]\n[rule.r.attrs]\n{attrs}\n[rule.r.action.x]\n{action}\n"
    );
    let mut world = World::new(&[("r.toml", text.as_str())]);
    world.clean();
    world.target("r", label, values);
    world
}

#[test]
fn entries_of_lists() {
    let attrs = "a = { type = \"strings\" }\nb = { type = \"string\" }\non = { type = \"bool\" }\nn = { type = \"int\", default = 3 }\nkind = { type = \"enum\", values = [\"x\", \"y\"], default = \"x\" }";
    let check = |args: &str, values: &[(&'static str, V)], expected: &[&str]| {
        let world =
            one_rule(attrs, &format!("outs = {{ o = \"{{name}}\" }}\nargs = [\"p\", {args}]"), "//pkg:t", values);
        world.clean();
        assert_eq!(world.command("//pkg:t", 0).argv[1..], *expected, "{args}");
    };
    let two = || vec![("a", L(vec!["1", "2"]))];
    check("\"-I{a}\"", &two(), &["-I1", "-I2"]);
    check("\"-I{a}\"", &[], &[]);
    check("\"{a}={a}\"", &two(), &["1=1", "2=2"]);
    check("[\"-f\", \"{a}\"]", &two(), &["-f", "1", "-f", "2"]);
    check("[\"-f\", \"{a}\"]", &[], &[]);
    check("[\"-f\", \"-g\"]", &[], &["-f", "-g"]);
    check("\"{name}-{a}\"", &two(), &["t-1", "t-2"]);
    check("\"--b={b}\"", &[], &[]);
    check("\"--b={b}\"", &[("b", S("v"))], &["--b=v"]);
    check("\"--b={b}\"", &[("b", S("{name} {{"))], &["--b={name} {{"]);
    check("\"{n}\"", &[("n", V::I(-7))], &["-7"]);
    check("{ join = \":\", items = [\"{a}\", \"z\"] }", &two(), &["1:2:z"]);
    check("{ join = \":\", items = [\"{a}\"] }", &[], &[]);
    check("{ when = { on = true }, items = [\"on\"] }, { when = { on = false }, items = [\"off\"] }", &[], &["off"]);
    check("{ when = { on = true }, items = [\"on\"] }", &[("on", V::B(true))], &["on"]);
    check("{ when = { kind = [\"y\", \"x\"], n = 3, a = true }, items = [\"all\"] }", &two(), &["all"]);
    check("{ when = { kind = \"x\", a = true }, items = [\"all\"] }", &[], &[]);
    check(
        "{ when = { b = true }, items = [\"b\"] }, { when = { b = \"v\" }, items = [\"is v\"] }",
        &[("b", S("v"))],
        &["b", "is v"],
    );
    check("{ when = { b = false }, items = [\"no b\"] }, { when = { b = \"v\" }, items = [\"is v\"] }", &[], &["no b"]);
    check("{ when = { a = true }, join = \",\", items = [\"{a}\"] }", &two(), &["1,2"]);
    check("{ when = { vars.os = [\"macos\", \"linux\"] }, items = [\"unix\"] }", &[], &["unix"]);
    check("\"{label} {package} {bin} {bin_root}\"", &[], &["//pkg:t pkg minibuild-out/bin/pkg minibuild-out/bin"]);
}

#[test]
fn at_the_root_of_the_workspace() {
    let attrs = "tool = { type = \"tool\", required = true }\nmain = { type = \"file\" }\ndirs = { type = \"paths\" }";
    let action = "outs = { o = \"{name}\" }\nargs = [\"{tool}\", \"{package}\", \"{bin}\", \"{dirs}\", \"{dirs:bin}\", \"{main}\", \"{main:rel:dir}\"]";
    let world =
        one_rule(attrs, action, "//:t", &[("tool", L(vec!["gen.py"])), ("main", S("a.c")), ("dirs", L(vec!["."]))]);
    world.clean();
    assert_eq!(world.argv("//:t", 0), "./gen.py . minibuild-out/bin . minibuild-out/bin a.c .");
    let world = one_rule(
        "main = { type = \"file\", required = true }",
        "outs = { o = \"o\" }\nargs = [\"{main}\", \"{main}\"]",
        "//:t",
        &[("main", S("run"))],
    );
    assert_eq!(world.command("//:t", 0).argv, ["./run", "run"]);
}

#[test]
fn environment_and_inputs() {
    let attrs = "dirs = { type = \"files\" }\none = { type = \"string\" }\nmore = { type = \"env\" }\ndata = { type = \"files\" }";
    let action = "outs = { o = \"o\" }\ncmd = 'echo \"$@\" {name} > $OUT'\nargs = [\"{name}\"]\ninputs = [\"{data}\"]\nenv_from = [\"more\"]\n\
                  env = { OUT = \"{out.o}\", ONE = \"{one}\", DIRS = { join = \":\", items = [\"{dirs:dir}\"] }, FIXED = \"x\" }";
    let more = V::E(vec![("FIXED", "won"), ("F", "at $(location f.txt)")]);
    let world = one_rule(
        attrs,
        action,
        "//e:t",
        &[("dirs", L(vec!["a/x", "b/y"])), ("more", more), ("data", L(vec!["d.txt"]))],
    );
    world.clean();
    let command = world.command("//e:t", 0);
    assert_eq!(command.argv, ["/bin/sh", "-e", "-c", "echo \"$@\" {name} > $OUT", "sh", "t"]);
    let env: Vec<String> = command.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(env, ["DIRS=e/a:e/b", "F=at e/f.txt", "FIXED=won", "OUT=minibuild-out/bin/e/o"]);
    assert_eq!(world.input_paths("//e:t", 0), ["e/a/x", "e/b/y", "e/f.txt", "e/d.txt"]);
    assert!(world.row("//e:t", 0).discoverable.is_empty(), "without a depfile all inputs count");
}

#[test]
fn what_is_wrong_with_a_target() {
    let outs = |attrs: &str, out: &str, values: &[(&'static str, V)]| {
        one_rule(attrs, &format!("for_each = \"names\"\nouts = {{ o = \"{out}\" }}\ncmd = \"\""), "//w:t", values)
            .complaints()
    };
    let names = "names = { type = \"strings\" }";
    let same = outs(names, "{item}.o", &[("names", L(vec!["a", "a"]))]);
    assert!(same.contains("`//w:t` declares the output `minibuild-out/bin/w/a.o` twice"), "{same}");
    let outside = outs(names, "{item}", &[("names", L(vec!["../a"]))]);
    assert!(outside.contains("bad path of an output: `../a` is not normalised"), "{outside}");
    let absolute = outs(names, "{item}", &[("names", L(vec!["/etc/passwd"]))]);
    assert!(absolute.contains("bad path of an output: `/etc/passwd` is absolute"), "{absolute}");
    let empty = outs(names, "{item}", &[("names", L(vec![""]))]);
    assert!(empty.contains("the path of an output is empty"), "{empty}");
    let nothing = one_rule(names, "outs = { o = \"o\" }\nargs = [\"{names}\"]", "//w:t", &[]).complaints();
    assert!(nothing.contains("action `x` of this target has no program to run"), "{nothing}");
    let mut twice = World::new(&[C]);
    twice.target("c_binary", "//w:a", &[("srcs", L(vec!["a.c"])), ("output", S("same"))]);
    twice.target("c_binary", "//w:b", &[("srcs", L(vec!["b.c"])), ("output", S("same"))]);
    assert!(
        twice.complaints().contains("`//w:b` and `//w:a` both declare the output `minibuild-out/bin/w/same`"),
        "{}",
        twice.complaints()
    );
}

#[test]
fn only_one_condition_of_an_action_leaves_its_outputs_empty() {
    let attrs = "on = { type = \"bool\", default = false }";
    let action = "when = { on = true }\nouts = { o = \"o\" }\ncmd = \"\"";
    let off = one_rule(attrs, action, "//c:t", &[]);
    assert_eq!((off.of("//c:t").outputs.len(), off.actions("//c:t").len()), (0, 0));
    let on = one_rule(attrs, action, "//c:t", &[("on", V::B(true))]);
    assert_eq!((on.of("//c:t").outputs.len(), on.actions("//c:t").len()), (1, 1));
}

#[test]
fn runfiles_of_runnable_data_come_along_however_far_they_are_handed_on() {
    let mut world = World::new(&[C, PYTHON]);
    world.target("py_binary", "//t:helper", &[]);
    world.target("c_library", "//t:low", &[("srcs", L(vec!["low.c"])), ("data", L(vec![":helper"]))]);
    world.target("c_library", "//t:high", &[("srcs", L(vec!["high.c"])), ("deps", L(vec![":low"]))]);
    world.target("c_test", "//t:test", &[("srcs", L(vec!["test.c"])), ("deps", L(vec![":high"]))]);
    world.clean();
    let run = world.of("//t:test").run.clone().expect("a test can be run");
    let mut files = world.paths(&run.runfiles);
    files.sort();
    assert_eq!(files, [super::harness::bin("t/helper"), "t/helper.py".into()]);
}

#[test]
fn the_graph_grows_with_the_edges_and_not_with_their_closure() {
    let size = |libraries: usize| {
        let mut world = World::new(&[C]);
        let mut previous: Vec<&'static str> = Vec::new();
        for n in 0..libraries {
            let name: &'static str = Box::leak(format!("//n:l{n}").into_boxed_str());
            let (src, hdr): (&'static str, &'static str) =
                (Box::leak(format!("s{n}.c").into_boxed_str()), Box::leak(format!("h{n}.h").into_boxed_str()));
            world.target("c_library", name, &[("srcs", L(vec![src])), ("hdrs", L(vec![hdr])), ("deps", L(previous))]);
            previous = vec![name];
        }
        world.clean();
        let model = &world.builder.model;
        let set_items: usize = model.sets.iter().map(|set| set.items.len()).sum();
        let action_items: usize =
            model.actions.iter().map(|action| action.inputs.len() + action.discoverable.len()).sum();
        set_items + action_items
    };
    let (small, large) = (size(100), size(400));
    assert!(large < small * 5, "{small} for 100, {large} for 400");
}

#[test]
fn each_argument_is_explained() {
    let mut world = World::new(&[C]);
    world.target("c_library", "//x:l", &[("srcs", L(vec!["a.c"])), ("includes", L(vec!["inc"]))]);
    world.clean();
    let (id, recipe) = &world.of("//x:l").recipes[0];
    let origins = recipe.explain(&world.builder.model, *id);
    let argv: Vec<&str> = origins.iter().map(|origin| origin.text.as_str()).collect();
    assert_eq!(argv, world.command("//x:l", 0).argv);
    let shown = crate::lang::show_argv(&origins, &world.sources);
    let find = |text: &str| {
        shown
            .lines()
            .find(|line| line.trim_start().starts_with(text))
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    let line_of = |text: &str| C.1.lines().position(|line| line.contains(text)).expect("it is there") + 1;
    assert_eq!(
        find("-Ix/inc"),
        Some(format!("-Ix/inc @std/c.toml:{}:52 \"-I{{includes}}\"", line_of("\"-I{includes}\"")))
    );
    assert!(origins.iter().any(|origin| origin.text == "cc" && origin.name.as_deref() == Some("vars.cc")));
}

#[test]
fn assembly_that_is_not_preprocessed_has_no_depfile() {
    let mut world = World::new(&[C]);
    world.target("c_library", "//a:l", &[("srcs", L(vec!["x.S", "y.s"]))]);
    world.clean();
    assert_eq!(world.argv("//a:l", 1), "cc -O2 -c a/y.s -o minibuild-out/bin/a/l.objs/y.s.o");
    assert_eq!((world.row("//a:l", 0).depfile.is_some(), world.row("//a:l", 1).depfile.is_some()), (true, false));
    assert!(world.argv("//a:l", 2).ends_with("l.objs/x.S.o minibuild-out/bin/a/l.objs/y.s.o"));
}

#[test]
fn an_element_of_for_each_carries_its_files() {
    let check = |attrs: &str, for_each: &str, values: &[(&'static str, V)], argv: &str, inputs: &[&str]| {
        let action =
            format!("for_each = \"{for_each}\"\nouts = {{ o = \"{{item:rel}}.o\" }}\nargs = [\"p\", \"{{item}}\"]");
        let action = if for_each == "dirs" || for_each == "fs" { action } else { action.replace(":rel", "") };
        let world = one_rule(attrs, &action, "//f:t", values);
        world.clean();
        assert_eq!(
            (world.argv("//f:t", 0).as_str(), world.input_paths("//f:t", 0)),
            (argv, inputs.iter().map(ToString::to_string).collect())
        );
    };
    let lists = "dirs = { type = \"paths\" }\nfs = { type = \"files\" }\nws = { type = \"args\" }";
    check(lists, "dirs", &[("dirs", L(vec!["d"]))], "p f/d", &[]);
    check(lists, "fs", &[("fs", L(vec!["a.c"]))], "p f/a.c", &["f/a.c"]);
    check(lists, "ws", &[("ws", L(vec!["x$(location a.c)"]))], "p xf/a.c", &["f/a.c"]);
    check(
        &format!("{lists}\n[rule.r.lists]\nl = [\"w{{fs}}\"]"),
        "l",
        &[("fs", L(vec!["a.c"]))],
        "p wf/a.c",
        &["f/a.c"],
    );
}

#[test]
fn constant_settings_of_actions_and_of_targets() {
    let text = "[rule.r]\nhermetic = true\noutputs = [\"{x.o}\"]\n[rule.r.action.x]\nouts = { o = \"o\" }\ncmd = \"\"\ntags = [\"no-cache\"]\n\
                platform = { OSFamily = \"linux\", Pool = \"a\" }\ntimeout = \"1m30s\"\nhost_tools = [\"sed\", { program = \"gawk\", version = [\"-V\"] }]\n\
                pool = \"link\"\ncpus = 2\nmemory = \"1GiB\"\n";
    let mut world = World::new(&[("r.toml", text)]);
    let common = crate::provide::Common {
        action_tags: minibuild_core::ActionTags { no_remote: true, ..Default::default() },
        platform: std::sync::Arc::from([("Pool".into(), "b".into())]),
        ..Default::default()
    };
    world.target_with("r", "//k:t", &[], common);
    world.clean();
    let row = world.row("//k:t", 0);
    assert_eq!((&*row.mnemonic, row.timeout), ("x", Some(std::time::Duration::from_secs(90))));
    assert_eq!(
        (row.tags.no_cache, row.tags.no_remote, row.tags.hermetic, row.tags.no_local),
        (true, true, true, false)
    );
    let platform: Vec<String> = row.platform.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(platform, ["OSFamily=linux", "Pool=b"]);
    let tools: Vec<String> =
        row.host_tools.iter().map(|id| format!("{:?}", world.builder.model.host_tools[id.index()])).collect();
    assert_eq!(
        tools,
        ["HostTool { program: \"sed\", version_args: [] }", "HostTool { program: \"gawk\", version_args: [\"-V\"] }"]
    );
    assert_eq!((row.resources.pool.as_deref(), row.resources.cpus, row.resources.memory), (Some("link"), 2, 1 << 30));
}
