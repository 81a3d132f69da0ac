//! One test for each class of error of rule files, with its place and the text underlined there.

use super::harness::World;

/// A rule file in which `rule` stands in a world with a provider `p`, some variables and attributes.
fn in_rule(attrs: &str, rest: &str) -> String {
    format!(
        "[vars]\ncc = {{ type = \"tool\", default = \"cc\" }}\nflags = {{ type = \"strings\", default = [] }}\n\
         mode = {{ type = \"enum\", values = [\"fast\", \"small\"], default = \"fast\" }}\nslow = {{ type = \"bool\", default = false }}\n\
         [provider.p.fields]\nh = {{ type = \"files\" }}\ns = {{ type = \"strings\", order = \"postorder\" }}\n\
         a = {{ type = \"args\", order = \"topological\" }}\n\
         [rule.r.attrs]\n{attrs}\nsrcs = {{ type = \"files\", accept = {{ c = [\".c\"], h = [\".h\"] }} }}\n\
         deps = {{ type = \"targets\", providers = [\"p\"] }}\ndirs = {{ type = \"paths\" }}\nopt = {{ type = \"string\" }}\n\
         on = {{ type = \"bool\", default = false }}\nvarenv = {{ type = \"env\" }}\n\
         [rule.r]\n{rest}\n"
    )
}

/// Compiles and shows the complaints, places as offsets into what differs: `LINE:COLUMN: …` of the line in `rest`.
fn complaints(text: &str) -> String {
    World::new(&[("r.toml", text)]).complaints()
}

/// The one complaint about `text` is `expected`, its place left out: the underlined text says where.
#[track_caller]
fn check_file(text: &str, expected: &str) {
    let found = complaints(text);
    let shown = found.split_once(": ").map_or(found.as_str(), |(_, rest)| rest);
    assert_eq!(shown, expected, "\n{text}");
}

#[track_caller]
fn check(rest: &str, expected: &str) {
    check_file(&in_rule("", rest), expected);
}

#[track_caller]
fn check_attr(attr: &str, expected: &str) {
    check_file(&in_rule(attr, ""), expected);
}

/// An action `x` with these keys, whose output is named.
#[track_caller]
fn check_action(keys: &str, expected: &str) {
    check(&format!("outputs = [\"{{x.o}}\"]\n[rule.r.action.x]\n{keys}"), expected);
}

/// An action with `args`.
#[track_caller]
fn check_args(args: &str, expected: &str) {
    check_action(&format!("outs = {{ o = \"{{name}}.o\" }}\nargs = {args}"), expected);
}

#[test]
fn the_frame_of_these_tests_is_right() {
    check("", "");
    check_attr("", "");
    check_args("[\"{vars.cc}\"]", "");
}

#[test]
fn places_are_exact() {
    let check = |text: &str, expected: &str| assert_eq!(complaints(text), expected);
    let rule = |args: &str| {
        format!(
            "[rule.r]\noutputs = [\"{{x.o}}\"]\nattrs.includes = {{ type = \"paths\" }}\n[rule.r.action.x]\nouts = {{ o = \"o\" }}\nargs = [\n{args}\n]\n"
        )
    };
    check(&rule("  \"-I{include}\","), "r.toml:7:7: unknown name `include` [include] (did you mean `includes`?)");
    check(
        &rule("  \"\\t\\u00e4é{include}\","),
        "r.toml:7:14: unknown name `include` [include] (did you mean `includes`?)",
    );
    check(
        &rule("'''\n\\\\\n {include}''',"),
        "r.toml:9:3: unknown name `include` [include] (did you mean `includes`?)",
    );
    check(
        &rule("\"\"\"a \\\n   \\\n   {includes:di}\"\"\","),
        "r.toml:9:14: unknown modifier `di` [di] (did you mean `dir`?); hint: modifiers are `name`, `stem`, `ext`, `dir`, `rel`, `bin`",
    );
}

#[test]
fn files_and_namespaces() {
    check_file("x = 1", "unknown key `x` in a rule file [x]");
    check_file("rules = {}", "unknown key `rules` in a rule file [rules] (did you mean `rule`?)");
    check_file("doc = 1", "`doc` must be a string, not an integer [1]");
    check_file(
        "[rule.R]",
        "`R` cannot name rule [R]; hint: names start with a letter and have letters a-z, digits and `_` only",
    );
    check_file("[rule.genrule]", "rule `genrule` is built in [genrule]");
    check_file("[provider.run]", "provider `run` is built in [run]");
    check_file("[vars]\nos = { type = \"string\", default = \"x\" }", "variable `os` is built in [os]");
    let twice = World::new(&[("a.toml", "[rule.r]\n"), ("b.toml", "[rule.r]\n")]);
    assert_eq!(twice.complaints(), "b.toml:1:7: rule `r` is declared twice [r]; first declared here a.toml:1:7 [r]");
    check_file("[rule.r]\nparts = [\"x\"]\n[part.xy]", "this file has no part `x` [x] (did you mean `xy`?)");
    check_file("[rule.r]\nparts = [\"x\", \"x\"]\n[part.x]", "part `x` is listed twice [x]");
    check_file("[part.x]\noutputs = []", "unknown key `outputs` in part `x` [outputs]");
}

#[test]
fn variables_and_configs() {
    let var = |rest: &str, expected: &str| check_file(&format!("[vars]\nv = {rest}"), expected);
    var("1", "variable `v` must be a table, not an integer [1]");
    var(
        "{ default = \"\" }",
        "variable `v` has no `type` [v]; hint: it is one of `string`, `strings`, `bool`, `enum`, `tool`",
    );
    var(
        "{ type = \"text\", default = \"\" }",
        "unknown type of variable `text` [text]; hint: it is one of `string`, `strings`, `bool`, `enum`, `tool`",
    );
    var("{ type = \"string\" }", "variable `v` has no `default` [v]");
    var("{ type = \"string\", default = 1 }", "variable `v` must be a string, not an integer [1]");
    var("{ type = \"strings\", default = [1] }", "variable `v` must be a string, not an integer [1]");
    var("{ type = \"enum\", default = \"a\" }", "variable `v` is an enum without `values` [v]");
    var(
        "{ type = \"enum\", values = [\"fast\"], default = \"fats\" }",
        "`fats` is no value of `vars.v`: it is one of `fast` [fats] (did you mean `fast`?)",
    );
    var("{ type = \"bool\", default = true, values = [] }", "`values` is only for type `enum` [values]");
    var("{ type = \"string\", default = \"\", version = [] }", "`version` is only for type `tool` [version]");
    var("{ type = \"tool\", default = \"\" }", "`vars.v` needs the name of a program or a label [\"\"]");
    let config = |rest: &str, expected: &str| {
        check_file(&format!("[vars]\nmode = {{ type = \"strings\", default = [] }}\n{rest}"), expected);
    };
    config("[config.opt.vars]\nmod = []", "no variable `mod` is declared [mod] (did you mean `mode`?)");
    config("[config.opt.vars]\nmode = \"\"", "variable `mode` must be an array, not a string [\"\"]");
    config("[config.opt]\nbuild = 1", "unknown key `build` in `[config.opt]` of a rule file [build]");
    let elsewhere = World::new(&[
        ("a.toml", "[vars]\nm = { type = \"bool\", default = true }"),
        ("b.toml", "[config.x.vars]\nm = false"),
    ]);
    assert_eq!(
        elsewhere.complaints(),
        "b.toml:2:1: `m` is not declared in this file: only the file that declares a variable sets it [m]; declared here a.toml:2:1 [m]"
    );
}

#[test]
fn providers() {
    check_file(
        "[provider.p.fields]\nx = { type = \"file\" }",
        "unknown type of field `file` [file] (did you mean `files`?); hint: it is one of `strings`, `files`, `args`",
    );
    check_file(
        "[provider.p.fields]\nx = { type = \"files\", order = \"pre\" }",
        "unknown order `pre` [pre]; hint: it is one of `preorder`, `postorder`, `topological`",
    );
    check(
        "[rule.r.provides.q]",
        "unknown provider `q` [q]; hint: the rule file that declares it must be listed in `[workspace] rules` as well",
    );
    check("[rule.r.provides.p]\nhh = []", "provider `p` has no field `hh` [hh]; the provider r.toml:6:11 [p]");
    check(
        "[rule.r.provides.p]\nh = [\"{deps.p.h}\", \"{srcs}\"]",
        "own entries of a preorder field stand before what is handed on [{srcs}]; hint: move it above the `{ATTR.PROVIDER.FIELD}` entries",
    );
    check(
        "[rule.r.provides.p]\ns = [\"x\", \"{deps.p.s}\"]",
        "own entries of a postorder field stand after what is handed on [{deps.p.s}]; hint: move it above the target's own entries",
    );
    check(
        "[rule.r.provides.p]\nh = [\"{deps.p.s}\"]",
        "here are only files: whole references without modifiers [{deps.p.s}]; hint: such as `{srcs}` or `{compile.obj}`",
    );
    check(
        "[rule.r.provides.p]\ns = [\"{deps.p.a}\"]",
        "`p.a` holds args and cannot be handed on in a field of strings [{deps.p.a}]",
    );
    check(
        "[rule.r.provides.p]\nh = [\"{srcs:dir}\"]",
        "here are only files: whole references without modifiers [{srcs:dir}]; hint: such as `{srcs}` or `{compile.obj}`",
    );
    check(
        "[rule.r.provides.p]\nh = [\"{vars.cc}\"]",
        "here are only files: whole references without modifiers [{vars.cc}]; hint: such as `{srcs}` or `{compile.obj}`",
    );
}

#[test]
fn attributes() {
    check_attr(
        "x = { type = \"file\", required = true, default = \"a\" }",
        "attribute `x` is required and has a default: it can only have one [default]",
    );
    check_attr(
        "x = { type = \"list\" }",
        "unknown type of attribute `list` [list]; hint: it is one of `string`, `int`, `enum`, `bool`, `strings`, `path`, `paths`, `file`, `files`, `target`, `targets`, `tool`, `tools`, `args`, `env`",
    );
    check_attr("x = { type = \"string\", pattern = \"(\" }", "`pattern` is no regular expression: unclosed group [(]");
    check_attr(
        "x = { type = \"string\", pattern = \"[a-z]+\", default = \"A\" }",
        "the default does not match the `pattern` [A]",
    );
    check_attr("x = { type = \"int\", default = \"1\" }", "`default` must be a whole number, not a string [\"1\"]");
    check_attr("x = { type = \"env\", default = {} }", "an attribute of type `env` has no default [{}]");
    check_attr("x = { type = \"enum\" }", "attribute `x` is an enum without `values` [x]");
    check_attr(
        "x = { type = \"enum\", values = [\"a1\"], default = \"a2\" }",
        "`a2` is not among the `values` [a2] (did you mean `a1`?); hint: they are `a1`",
    );
    check_attr(
        "x = { type = \"enum\", values = [\"fast\"], default = \"{vars.mode}\" }",
        "`small` is not among the `values` [{vars.mode}]; hint: they are `fast`",
    );
    check_attr(
        "x = { type = \"string\", default = \"{srcs}\" }",
        "a default cannot name `srcs` [srcs]; hint: it may name `{name}`, `{package}` and `{vars.X}`",
    );
    check_attr(
        "x = { type = \"string\", default = \"{vars.moed}\" }",
        "no variable `moed` is declared [vars.moed] (did you mean `mode`?)",
    );
    check_attr(
        "x = { type = \"string\", default = \"{vars.flags}\" }",
        "`vars.flags` is a list: a default names single values only [vars.flags]",
    );
    check_attr("x = { type = \"string\", default = \"{name:dir}\" }", "a default takes no modifiers [dir]");
    check_attr("x = { type = \"string\", accept = [] }", "`accept` is only for type `file` and `files` [accept]");
    check_attr(
        "x = { type = \"files\", accept = [\"a/b\"] }",
        "`a/b` is no ending of a file name [a/b]; hint: endings are like `.c`; `/` alone takes tree artifacts",
    );
    check_attr(
        "x = { type = \"files\", accept = { a = [\".x\"], b = [\".x\"] } }",
        "the ending `.x` is listed twice [.x]; first here r.toml:11:40 [.x]",
    );
    check_attr(
        "x = { type = \"target\", providers = [\"pp\"] }",
        "unknown provider `pp` [pp]; hint: the rule file that declares it must be listed in `[workspace] rules` as well",
    );
    check_attr("tags = { type = \"strings\" }", "`tags` is taken: every such rule has it [tags]");
    check_attr("bin = { type = \"string\" }", "`bin` is taken: every such rule has it [bin]");
    check(
        "run = { executable = \"{x.o}\" }\nparts = [\"q\"]\n[part.q.attrs]\nargs = { type = \"args\" }\n[rule.r.action.x]\nouts = { o = \"o\" }\ncmd = \"\"",
        "`args` is taken: every such rule has it [args]",
    );
    check(
        "[rule.r.lists]\nsrcs = []",
        "`srcs` comes twice in rule `r` [srcs]; first here r.toml:12:1 [srcs]; hint: attributes, lists and actions of a rule and its parts are one namespace",
    );
}

#[test]
fn a_wrong_declaration_is_told_once_and_not_where_it_is_used() {
    let text = "[vars]\nv = { type = \"txt\", default = \"\" }\n[provider.q.fields]\nf = { type = \"x\" }\n\
                [rule.r]\noutputs = [\"{x.o}\"]\n[rule.r.attrs]\na = { type = \"y\" }\nd = { type = \"targets\", providers = [\"q\"] }\n\
                e = { type = \"string\", default = \"{vars.v}\" }\n\
                [rule.r.action.x]\nouts = { o = \"o\" }\nargs = [\"{vars.v}\", \"{a}\", \"{d.q.f}\"]\n[rule.r.provides.q]\nf = []\n";
    let found = complaints(text);
    assert_eq!(found.lines().count(), 3, "{found}");
}

#[test]
fn templates() {
    check_args("[\"{vars.c}\"]", "no variable `c` is declared [vars.c] (did you mean `cc`?)");
    check_args("[\"{vars.cc\"]", "`{` without `}` [{]; hint: write `{{` for a brace");
    check_args("[\"a}\"]", "`}` without `{` [}]; hint: write `}}` for a brace");
    check_args("[\"x\", \"{out.p}\"]", "action `x` has no output `p` [out.p]");
    check_args("[\"x\", \"{out.depfile}\"]", "this action has no `depfile` [out.depfile]");
    check_args(
        "[\"x\", \"{item}\"]",
        "`item` is nothing here [item]; hint: `item` is the current element of `for_each`, which this action has not",
    );
    check_args(
        "[\"x\", \"{on}\"]",
        "`on` is a bool, which is no text [{on}]; hint: use it in a condition: `{ when = { NAME = true }, items = [...] }`",
    );
    check_args(
        "[\"x\", \"{varenv}\"]",
        "`varenv` is a table of variables, which is no text [{varenv}]; hint: name it in `env_from` of an action",
    );
    check_args(
        "[\"x\", \"{srcs}{dirs}\"]",
        "an entry names two different lists [{dirs}]; the first list r.toml:22:15 [{srcs}]; hint: an entry is given once for each item of one list; there is no product of lists",
    );
    check_args(
        "[\"x\", [\"{srcs}\", \"{srcs.c}\"]]",
        "an entry names two different lists [{srcs.c}]; the first list r.toml:22:16 [{srcs}]; hint: an entry is given once for each item of one list; there is no product of lists",
    );
    check_args("[\"x\", []]", "an empty group gives nothing [[]]");
    check_args("[\"x\", [1]]", "an element of a group must be a string, not an integer [1]");
    check_args("[\"x\", 1]", "an entry of `args` must be a string, an array of strings or a table, not an integer [1]");
    check_args("[\"x\", \"{srcs:bin}\"]", "`:bin` is only for attributes of type `path` or `paths` [bin]");
    check_args("[\"x\", \"{name:dir}\"]", "`:dir` is only for paths [dir]");
    check_args("[\"x\", \"{srcs.cc}\"]", "`srcs` has no kind `cc` [srcs.cc]");
    check_args("[\"x\", \"{opt.c}\"]", "`opt` has no parts [opt.c]");
    check_args(
        "[\"x\", \"{deps.p}\"]",
        "`deps` gives fields of providers [deps.p]; hint: write `{deps.PROVIDER.FIELD}`",
    );
    check_args("[\"x\", \"{deps.p.i}\"]", "provider `p` has no field `i` [deps.p.i]");
    check_args(
        "[\"x\", \"{deps.c.h}\"]",
        "`deps` takes no targets that give `c` [deps.c.h]; hint: its `providers` are `p`",
    );
    check_args("[\"x\", \"{x}\"]", "`x` is an action [x]; hint: name one of its outputs: `{x.o}`");
    check_args("[\"x\", \"{y.o}\"]", "unknown name `y` [y.o] (did you mean `x.o`?)");
    check_args(
        "[{ item = [] }]",
        "unknown key `item` in a table entry [item] (did you mean `items`?)\nr.toml:22:9: a table entry needs `items` [{ item = [] }]",
    );
    check_args(
        "[\"x\", { items = [], response_file = \"msvc\" }]",
        "unknown format of response file `msvc` [msvc]; hint: it is one of `gnu`, `lines`",
    );
    check_args(
        "[\"x\", { items = [], response_file = \"gnu\", join = \"\" }]",
        "`response_file` and `join` do not go together [\"gnu\"]",
    );
    check(
        "[rule.r.lists]\nl = [{ items = [], response_file = \"gnu\" }]",
        "`response_file` is only for tables in the `args` of an action [\"gnu\"]",
    );
    check("[rule.r.lists]\nl = [\"{m}\"]\nm = []", "`m` is a list: a list cannot name another one [m]");
    check("[rule.r.lists]\nl = [\"{item}\"]", "`item` is known only inside an action [item]");
    check("outputs = [\"{out.o}\"]", "`out` is known only inside an action [out.o]");
    check(
        "outputs = [\"x\"]",
        "here are only files: whole references without modifiers [x]; hint: such as `{srcs}` or `{compile.obj}`",
    );
    check("outputs = [{ join = \"\", items = [] }]", "`join` makes text, and here are only files [\"\"]");
}

#[test]
fn conditions() {
    let check_when =
        |when: &str, expected: &str| check_args(&format!("[\"x\", {{ when = {when}, items = [] }}]"), expected);
    check_when(
        "{ vars.mode = \"fsat\" }",
        "`fsat` is no value of `vars.mode` [fsat] (did you mean `fast`?); hint: its values are `fast`, `small`",
    );
    check_when("{ vars.mode = [\"fast\", 1] }", "the value of `vars.mode` must be a string, not an integer [1]");
    check_when("{ vars.mode = [] }", "a condition without values never holds [[]]");
    check_when("{ vars.mod = \"fast\" }", "no variable `mod` is declared [vars.mod] (did you mean `mode`?)");
    check_when("{ on = \"yes\" }", "the value of `on` must be `true` or `false`, not a string [\"yes\"]");
    check_when("{ srcs = \"a\" }", "`srcs` is a list: its condition is `true` (not empty) or `false` [\"a\"]");
    check_when("{ srcs.c = 1 }", "`srcs.c` is a list: its condition is `true` (not empty) or `false` [1]");
    check_when("{ srcx = true }", "unknown name `srcx` [srcx] (did you mean `srcs`?)");
    check_when("{ out.o = true }", "`out.o` is always there: this condition says nothing [true]; hint: leave it out");
    check_when("{}", "`when` without conditions [{}]");
    check_when("1", "`when` must be a table, not an integer [1]");
    for fine in [
        "{ on = true }",
        "{ vars.slow = [true, false] }",
        "{ opt = \"a\" }",
        "{ opt = true }",
        "{ srcs.c = true, deps.p.h = false }",
        "{ vars.os = [\"linux\", \"macos\"] }",
    ] {
        check_when(fine, "");
    }
}

#[test]
fn actions() {
    check_action("outs = { o = \"o\" }", "action `x` does nothing [x]; hint: give it `args`, `cmd` or `write`");
    check_action("outs = { o = \"o\" }\nargs = []", "`args` is the whole argv: its first element is the program [[]]");
    check_action(
        "outs = { o = \"/o\" }\ncmd = \"\"",
        "`/o` is no path below the package's outputs [/o]; hint: it is relative to `{bin}`, without `.`, `..` and empty segments",
    );
    check_action(
        "outs = { o = \"../o\" }\ncmd = \"\"",
        "`../o` is no path below the package's outputs [../o]; hint: it is relative to `{bin}`, without `.`, `..` and empty segments",
    );
    check_action(
        "outs = { o = \"{srcs}\" }\ncmd = \"\"",
        "output `o` is exactly one value, and this is a list [{srcs}]; hint: name a single value",
    );
    check_action(
        "outs = { o = \"{opt}\" }\ncmd = \"\"",
        "output `o` is exactly one value, and this is a list [{opt}]; hint: give the attribute a `default` or make it `required`",
    );
    check_action(
        "for_each = \"srcs\"\nouts = { o = \"o\" }\ncmd = \"\"",
        "output `o` must name `{item}`: the action runs once for each element [o]",
    );
    check_action(
        "for_each = \"{srcs}\"\nouts = { o = \"{name}\" }\ncmd = \"\"",
        "`{srcs}` names no list [{srcs}]; hint: it is the name of a list without braces, such as `srcs`",
    );
    check_action("for_each = \"name\"\nouts = { o = \"{name}\" }\ncmd = \"\"", "`name` is no list [name]");
    check_action(
        "outs = { o = \"o\" }\ncmd = \"\"\nexecutable = true",
        "`executable` is only for actions with `write` [executable]",
    );
    check_action("outs = { o = \"o\" }\nwrite = []\nargs = []", "`args` does not go together with `write` [args]");
    check_action(
        "out_dirs = { o = \"o\" }\nwrite = []",
        "action `x` has `write` and so needs exactly one file in `outs` [x]",
    );
    check_action(
        "outs = { o = \"o\" }\ncmd = \"\"\nenv = { A = \"{srcs}\" }",
        "a list where one value is needed [{srcs}]; hint: write `A = { join = \" \", items = [\"{srcs}\"] }`",
    );
    check_action(
        "outs = { o = \"o\" }\ncmd = \"\"\nenv = { A = { items = [] } }",
        "the table for `A` needs `join`: a variable has one value [{ items = [] }]",
    );
    check_action(
        "outs = { o = \"o\" }\ncmd = \"\"\nenv = { \"A=\" = \"\" }",
        "`A=` cannot name a variable of the environment [\"A=\"]",
    );
    check_action(
        "outs = { o = \"o\" }\ncmd = \"\"\nenv_from = [\"varenvs\"]",
        "`varenvs` is no attribute of type `env` [varenvs] (did you mean `varenv`?)",
    );
    check_action(
        "outs = { o = \"o\" }\ncmd = \"\"\ninputs = [\"{opt}\"]",
        "here are only files: whole references without modifiers [{opt}]; hint: such as `{srcs}` or `{compile.obj}`",
    );
    check_action(
        "outs = { o = \"o\" }\ncmd = \"\"\ntags = [\"no-remotes\"]",
        "unknown tag `no-remotes` [no-remotes] (did you mean `no-remote`?); hint: it is one of `local`, `no-remote`, `no-local`, `no-cache`, `no-remote-cache`, `exclusive`",
    );
    check_action(
        "outs = { o = \"o\" }\ncmd = \"\"\ntimeout = \"soon\"",
        "`timeout` is a time such as `\"90s\"`, `\"10m\"`, `\"1h30m\"` or a number of seconds [\"soon\"]",
    );
    check_action(
        "outs = { o = \"o\" }\ncmd = \"\"\nmnemonic = \"C Compile\"",
        "`mnemonic` is one word of letters and digits [C Compile]",
    );
    check_action(
        "outs = { o = \"o\" }\ncmd = \"\"\nmemory = \"lots\"",
        "`memory` is a size such as `\"512MiB\"`, `\"2GiB\"` or a number of bytes [\"lots\"]",
    );
    check_action(
        "outs = { o = \"o\", depfile = \"d\" }\ncmd = \"\"",
        "`out.depfile` is the depfile: name the output otherwise [depfile]",
    );
    check_action(
        "outs = { o = \"o\" }\nout_dirs = { o = \"d\" }\ncmd = \"\"",
        "output `o` comes twice [o]; first here r.toml:21:10 [o]",
    );
    check(
        "[rule.r.action.x]\nouts = { o = \"o\" }\ncmd = \"\"",
        "no output of action `x` is named in rule `r` [x]; hint: name it in `outputs`, `provides`, `run` or another action, or remove the action",
    );
    check(
        "[rule.r.action.x]\ncmd = \"\"",
        "action `x` has no outputs [x]; hint: declare `outs` or `out_dirs`\nr.toml:19:16: no output of action `x` is named in rule `r` [x]; hint: name it in `outputs`, `provides`, `run` or another action, or remove the action",
    );
}

#[test]
fn circles() {
    let action = |name: &str, args: &str| {
        format!("[rule.r.action.{name}]\nouts = {{ o = \"{name}\" }}\nargs = [\"x\", {args}]\n")
    };
    check(
        &format!("[rule.r.lists]\nl = [\"{{b.o}}\"]\n{}{}", action("a", "\"{l}\""), action("b", "\"{a.o}\"")),
        "a circle: `a` needs `l` needs `b` needs `a` [a]; by way of this r.toml:20:1 [l]; by way of this r.toml:24:16 [b]",
    );
    check_args("[\"x\", \"{x.o}\"]", "a circle: `x` needs `x` [x]");
}

#[test]
fn run_and_test() {
    check("run = {}", "`run` needs an `executable` [{}]");
    check(
        "run = { executable = \"{srcs}\" }",
        "`executable` is exactly one value, and this is a list [{srcs}]; hint: name a single value",
    );
    check("run = { executable = \"x\" }", "`executable` must be one file: a whole reference such as `{link.bin}` [x]");
    check(
        "run = { executable = \"{name}\" }",
        "`executable` must be one file: a whole reference such as `{link.bin}` [{name}]",
    );
    let both = "outputs = [\"{x.o}\"]\nrun = { executable = \"{x.o}\" }\ntest = { executable = \"{x.o}\" }\naction.x = { outs = { o = \"o\" }, cmd = \"\" }";
    check(both, "a rule has `run` or `test`: what is tested can be run as well [{ executable = \"{x.o}\" }]");
}

#[test]
fn unused_parts_are_checked_as_far_as_they_can_be() {
    let part = |args: &str| format!("[part.p.action.x]\nouts = {{ o = \"o\" }}\nargs = [{args}]\n");
    check_file(&part("\"{of_another_part}\""), "");
    check_file(
        &part("\"{name:dri}\""),
        "unknown modifier `dri` [dri] (did you mean `dir`?); hint: modifiers are `name`, `stem`, `ext`, `dir`, `rel`, `bin`",
    );
    check_file(&part("\"{vars.nope}\""), "no variable `nope` is declared [vars.nope]");
}

#[test]
fn an_error_in_a_part_is_told_once_however_many_rules_use_it() {
    let text = "[part.p.lists]\nl = [\"{nope}\"]\n[rule.a]\nparts = [\"p\"]\n[rule.b]\nparts = [\"p\"]\n";
    check_file(text, "unknown name `nope` [nope]");
}
