//! `cargo xtask dist`: one static, optimised binary for this host.
//!
//! glibc is linked in with `crt-static`; that no dynamic section is left is read from the ELF file itself.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use thiserror::Error;

use crate::step::{cargo_program, target_dir};

/// Why there is no static binary.
#[derive(Debug, Error)]
enum DistError {
    #[error("cannot run `{program}`")]
    Run { program: String, source: std::io::Error },
    #[error("`{program}` failed: {status}")]
    Failed { program: String, status: std::process::ExitStatus },
    #[error("`rustc -vV` names no host")]
    NoHost,
    #[error("cannot read `{}`", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("`{}` is not a static program: {why}", path.display())]
    NotStatic { path: PathBuf, why: &'static str },
}

/// Builds, checks and prints the path on stdout.
pub fn run(root: &Path) -> bool {
    match build(root) {
        Ok(path) => {
            println!("{}", path.display());
            true
        }
        Err(error) => {
            eprintln!("xtask: {error}");
            if let Some(source) = std::error::Error::source(&error) {
                eprintln!("  caused by: {source}");
            }
            false
        }
    }
}

fn build(root: &Path) -> Result<PathBuf, DistError> {
    let host = host_triple()?;
    let program = cargo_program();
    let mut cargo = Command::new(&program);
    // With an explicit --target the flag does not reach build scripts and procedural macros, which must stay dynamic.
    cargo.args(["build", "--locked", "--profile", "dist", "--package", "minibuild", "--target", &host]);
    cargo.env("RUSTFLAGS", "-C target-feature=+crt-static").current_dir(root).stdin(Stdio::null());
    let status = cargo.status().map_err(|source| DistError::Run { program: program.clone(), source })?;
    if !status.success() {
        return Err(DistError::Failed { program, status });
    }
    let path = target_dir(root).join(&host).join("dist/minibuild");
    let bytes = std::fs::read(&path).map_err(|source| DistError::Read { path: path.clone(), source })?;
    match interpreter_state(&bytes) {
        Linkage::Static => Ok(path),
        Linkage::Dynamic => Err(DistError::NotStatic { path, why: "it asks for a dynamic loader" }),
        Linkage::NotElf => Err(DistError::NotStatic { path, why: "it is not a 64-bit little-endian ELF file" }),
    }
}

fn host_triple() -> Result<String, DistError> {
    let program = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let output = Command::new(&program)
        .arg("-vV")
        .stdin(Stdio::null())
        .output()
        .map_err(|source| DistError::Run { program, source })?;
    parse_host(&String::from_utf8_lossy(&output.stdout)).ok_or(DistError::NoHost)
}

fn parse_host(version: &str) -> Option<String> {
    version.lines().find_map(|line| line.strip_prefix("host: ")).map(str::to_owned)
}

#[derive(Debug, PartialEq, Eq)]
enum Linkage {
    Static,
    Dynamic,
    NotElf,
}

/// Looks for a `PT_INTERP` program header: the loader's path, which a static program has none of.
fn interpreter_state(elf: &[u8]) -> Linkage {
    const PT_INTERP: u64 = 3;
    let is_elf64_le = elf.starts_with(b"\x7fELF\x02\x01");
    let headers = (|| Some((number(elf, 32, 8)?, number(elf, 54, 2)?, number(elf, 56, 2)?)))();
    let (true, Some((offset, size, count))) = (is_elf64_le, headers) else { return Linkage::NotElf };
    let mut kinds = (0..count).map(|index| number(elf, offset.saturating_add(index * size) as usize, 4));
    if kinds.any(|kind| kind == Some(PT_INTERP)) { Linkage::Dynamic } else { Linkage::Static }
}

/// A little-endian number of `width` bytes, if the file is that long.
fn number(bytes: &[u8], at: usize, width: usize) -> Option<u64> {
    let field = bytes.get(at..at.checked_add(width)?)?;
    Some(field.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF header with one program header of the given type.
    fn elf_with(kind: u8) -> Vec<u8> {
        let mut bytes = vec![0; 64 + 56];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        (bytes[32], bytes[54], bytes[56], bytes[64]) = (64, 56, 1, kind);
        bytes
    }

    #[test]
    fn the_loader_header_decides() {
        assert_eq!(interpreter_state(&elf_with(1)), Linkage::Static);
        assert_eq!(interpreter_state(&elf_with(3)), Linkage::Dynamic);
        for bad in [&b""[..], b"#!/bin/sh\n", b"\x7fELF\x02\x01"] {
            assert_eq!(interpreter_state(bad), Linkage::NotElf, "{bad:?}");
        }
    }

    #[test]
    fn a_header_offset_past_the_end_is_not_a_panic() {
        let mut bytes = elf_with(3);
        bytes[32..40].fill(0xff);
        assert_eq!(interpreter_state(&bytes), Linkage::Static);
    }

    #[test]
    fn the_host_line_is_found() {
        assert_eq!(parse_host("rustc 1\nbinary: rustc\nhost: a-b-c\n"), Some("a-b-c".to_owned()));
        assert_eq!(parse_host("rustc 1\n"), None);
    }
}
