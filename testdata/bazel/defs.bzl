"""A rule whose output is a directory that only the action knows."""

def _pages_impl(ctx):
    out = ctx.actions.declare_directory(ctx.label.name)
    ctx.actions.run_shell(
        inputs = ctx.files.srcs,
        outputs = [out],
        arguments = [out.path] + [f.path for f in ctx.files.srcs],
        mnemonic = "Pages",
        command = """
set -eu
out=$1
shift
for src in "$@"; do
    page=$out/$(basename "$src" .txt)
    mkdir -p "$page/empty-parent"
    tr a-z A-Z < "$src" > "$page/text"
    : > "$page/empty-parent/empty"
done
printf '#!/bin/sh\\necho pages\\n' > "$out/run"
chmod +x "$out/run"
""",
    )
    return [DefaultInfo(files = depset([out]))]

pages = rule(
    implementation = _pages_impl,
    attrs = {"srcs": attr.label_list(allow_files = True)},
)
