//! What is done on every side: one target each, and how it has to end wherever it runs.
//!
//! It does not know the sides.

use minibuild_testkit::Workspace;

/// One target of package `t` and what becomes of its action.
pub struct Case {
    /// The target's name.
    pub name: &'static str,
    /// The exit code of its command: not 0 where it fails, and 1 where it is refused after its end.
    pub exit_code: i32,
    /// Whether it succeeds.
    pub success: bool,
    keys: String,
}

impl Case {
    fn new(name: &'static str, keys: impl Into<String>) -> Self {
        Self { name, exit_code: 0, success: true, keys: keys.into() }
    }

    /// It fails, with this exit code in its event.
    fn fails(self, exit_code: i32) -> Self {
        Self { exit_code, success: false, ..self }
    }

    fn toml(&self) -> String {
        format!("[[genrule]]\nname = {:?}\n{}\n", self.name, self.keys)
    }
}

/// A case with one output.
fn one(name: &'static str, cmd: &str) -> Case {
    Case::new(name, format!("srcs = [\"in.txt\"]\nouts = [\"{name}.out\"]\ncmd = {cmd:?}"))
}

/// A case with one directory.
fn tree(name: &'static str, cmd: &str) -> Case {
    Case::new(name, format!("srcs = [\"in.txt\"]\nout_dirs = [\"{name}.d\"]\ncmd = {cmd:?}"))
}

/// A case with one symlink.
fn symlink(name: &'static str, cmd: &str) -> Case {
    Case::new(name, format!("srcs = [\":several\", \":tree\"]\nout_symlinks = [\"{name}.l\"]\ncmd = {cmd:?}"))
}

/// All cases.
pub fn all() -> Vec<Case> {
    [outputs(), trees(), surroundings(), logs(), endings(), refused()].into_iter().flatten().collect()
}

fn outputs() -> Vec<Case> {
    let long = "n".repeat(255);
    let deep = vec!["d".repeat(100); 8].join("/");
    vec![
        one("file", "tr a-z A-Z < $SRC > $OUT"),
        one("empty", ": > $OUT"),
        one("large", "seq 1 400000 > $OUT"),
        one("executable", "printf '#!/bin/sh\\necho run\\n' > $OUT; chmod 744 $OUT"),
        one("writable", "echo x > $OUT; chmod 666 $OUT"),
        one("unreadable", "echo x > $OUT; chmod 000 $OUT"),
        Case::new("several", several("for out in $OUTS; do echo $out > $out; done")),
        Case::new(
            "program",
            "outs = [\"program.out\"]\ntools = [\":executable\"]\ncmd = \"$(location :executable) > $OUT\"",
        ),
        Case::new("names", names()),
        Case::new("long_name", format!("outs = [\"{long}\"]\ncmd = \"echo x > $OUT\"")),
        Case::new("deep_path", format!("outs = [\"{deep}\"]\ncmd = \"echo x > $OUT\"")),
        Case::new("too_long_name", format!("outs = [\"{long}n\"]\ncmd = \"echo x > $OUT\"")).fails(1),
        symlink("link", "ln -s s1 minibuild-out/bin/t/link.l"),
        symlink("link_to_tree", "ln -s tree.d minibuild-out/bin/t/link_to_tree.l"),
        symlink("link_to_nothing", "ln -s no/such/thing minibuild-out/bin/t/link_to_nothing.l"),
        symlink("link_out", "ln -s /usr/bin/env minibuild-out/bin/t/link_out.l"),
    ]
}

fn names() -> String {
    let cmd = "echo a > \"$OUT\"; echo b > \"minibuild-out/bin/t/with'quote\\$.txt\"";
    format!("outs = [\"grüße 日本.txt\", \"with'quote$.txt\"]\ncmd = {cmd:?}")
}

fn several(cmd: &str) -> String {
    format!("outs = [\"s1\", \"sub/s2\", \"sub/deep/s3\"]\ncmd = {cmd:?}")
}

fn trees() -> Vec<Case> {
    let full = "cd $OUT_DIR; mkdir -p a/b/c empty; echo x > a/b/c/x; cp a/b/c/x run; chmod 755 run; : > none; \
                ln -s a/b/c/x link; ln -s ../a/b a/up; mkdir -p 'with space/日本'; echo y > 'with space/日本/ü'";
    let reads = "cd minibuild-out/bin/t; (find tree.d empty_tree.d | sort; cat tree.d/link tree.d/a/up/c/x; \
                 find tree.d -type f -perm -100; readlink tree.d/link) > read_tree.out";
    vec![
        tree("tree", full),
        tree("empty_tree", ":"),
        tree("nested_empty", "mkdir -p $OUT_DIR/a/b/c"),
        tree("many", "for i in $(seq 1 300); do echo $i > $OUT_DIR/$i; done"),
        tree("same_files", "for d in p q r; do mkdir $OUT_DIR/$d; echo same > $OUT_DIR/$d/f; done"),
        Case::new(
            "read_tree",
            format!("srcs = [\":tree\", \":empty_tree\"]\nouts = [\"read_tree.out\"]\ncmd = {reads:?}"),
        ),
    ]
}

fn surroundings() -> Vec<Case> {
    let own = "env | grep -v -e ^PWD= -e ^OLDPWD= -e ^SHLVL= -e ^_= -e ^TMPDIR= -e ^MAKEFLAGS= | sort > $OUT";
    let linked = "cat t/link.txt t/linked/f.txt t/twice.txt > $OUT; readlink t/link.txt t/twice.txt >> $OUT";
    let depfile =
        "cat t/in.txt > $OUT; echo 'minibuild-out/bin/t/depfile.out: t/in.txt' > minibuild-out/bin/t/depfile.dep";
    vec![
        Case::new(
            "env",
            format!(
                "srcs = []\nouts = [\"env.out\"]\nenv = {{ A = \"1\", B = \"two  words\", C = \"$A 'q' ü\" }}\ncmd = {own:?}"
            ),
        ),
        one("no_home", "echo \"${HOME-none}\" > $OUT"),
        one("path", "echo \"$PATH\" > $OUT; command -v cat > /dev/null"),
        Case::new(
            "linked_inputs",
            format!(
                "srcs = [\"link.txt\", \"twice.txt\", \"linked/f.txt\"]\nouts = [\"linked_inputs.out\"]\ncmd = {linked:?}"
            ),
        ),
        Case::new(
            "rspfile",
            "outs = [\"rspfile.out\"]\nrspfile = { path = \"list.rsp\", content = [\"one\", \"two words\"] }\ncmd = \"cat minibuild-out/bin/t/list.rsp > $OUT\"",
        ),
        Case::new(
            "depfile",
            format!("inputs = [\"in.txt\"]\nouts = [\"depfile.out\"]\ndepfile = \"depfile.dep\"\ncmd = {depfile:?}"),
        ),
        Case::new(
            "argv",
            "outs = [\"argv.out\"]\nargs = [\"/bin/sh\", \"-c\", \"printf '<%s>' \\\"$@\\\" > minibuild-out/bin/t/argv.out\", \"x\", \"\", \"a b\", \"$HOME\", \"*\", \"ü\"]",
        ),
    ]
}

fn logs() -> Vec<Case> {
    vec![
        one("says", "echo to stdout; echo to stderr >&2; : > $OUT"),
        one("says_without_end", "printf 'no newline'; printf 'nor here' >&2; : > $OUT"),
        one("says_bytes", "printf 'odd \\377 \\000 bytes\\n'; : > $OUT"),
        one("says_much", "seq -f %063.0f 1 16384; : > $OUT"),
        one("says_both_much", "seq 1 20000; seq 1 20000 >&2; : > $OUT"),
    ]
}

fn endings() -> Vec<Case> {
    let with_args = |args: &str| format!("srcs = [\"in.txt\"]\nouts = [\"x.out\"]\nargs = [{args}]");
    let own =
        |name: &'static str, args: &str| Case::new(name, with_args(args).replace("x.out", &format!("{name}.out")));
    vec![
        one("exit_1", "echo out; echo err >&2; exit 1").fails(1),
        one("exit_42", "exit 42").fails(42),
        one("exit_255", "echo made > $OUT; exit 255").fails(255),
        one("exit_126", "t/in.txt").fails(126),
        one("exit_127", "no-such-program").fails(127),
        one("exit_137", "/bin/sh -c 'kill -9 $$'; exit $?").fails(137),
        one("sigkill", "kill -9 $$").fails(137),
        one("sigterm", "echo before; kill -15 $$").fails(143),
        one("sigsegv", "kill -11 $$").fails(139),
        one("timeout", "echo begun; sleep 1000").timeout("1s").fails(143),
        own("no_program", "\"no-such-program\"").fails(127),
        own("not_a_program", "\"t/in.txt\"").fails(126),
    ]
}

fn refused() -> Vec<Case> {
    vec![
        one("no_output", "true").fails(1),
        Case::new("one_of_three", several("echo x > minibuild-out/bin/t/o1").replace("\"s", "\"o").replace("/s", "/o"))
            .fails(1),
        one("directory_for_file", "mkdir $OUT").fails(1),
        one("pipe_for_file", "mkfifo $OUT").fails(1),
        one("dangling_for_file", "ln -s nowhere $OUT").fails(1),
        one("link_out_for_file", "ln -s /etc/passwd $OUT").fails(1),
        tree("no_tree", "rmdir $OUT_DIR").fails(1),
        tree("file_for_tree", "rmdir $OUT_DIR; : > $OUT_DIR").fails(1),
        tree("tree_with_pipe", "mkfifo $OUT_DIR/p").fails(1),
        tree("tree_with_link_out", "ln -s /etc/hostname $OUT_DIR/l").fails(1),
        tree("tree_with_link_up", "ln -s ../in.txt $OUT_DIR/l").fails(1),
        tree("tree_with_dangling_link", "ln -s nowhere $OUT_DIR/l").fails(1),
        tree("tree_with_odd_name", ": > \"$OUT_DIR/$(printf 'odd-\\377')\"").fails(1),
        symlink("file_for_link", "echo x > minibuild-out/bin/t/file_for_link.l").fails(1),
    ]
}

impl Case {
    fn timeout(mut self, time: &str) -> Self {
        self.keys.push_str(&format!("\ntimeout = {time:?}"));
        self
    }
}

/// A workspace with all of them.
pub fn workspace() -> Workspace {
    let targets: String = all().iter().map(Case::toml).collect();
    crate::workspace()
        .file("minibuild.toml", "[env]\nCONFIGURED = \"by the workspace\"\nA = \"not this\"\n")
        .file("t/BUILD.toml", targets)
        .file("t/in.txt", "one\n")
        .file("t/elsewhere/f.txt", "through a directory\n")
        .link("t/link.txt", "in.txt")
        .link("t/twice.txt", "link.txt")
        .link("t/linked", "elsewhere")
}
