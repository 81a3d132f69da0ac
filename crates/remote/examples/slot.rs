//! The helper of the workers of the tests' servers: `minibuild __slot` of the real binary. Examples are built along
//! with the tests, under a path the tests can know.

fn main() -> std::process::ExitCode {
    minibuild_local::slot_main(std::env::args_os().skip(2))
}
