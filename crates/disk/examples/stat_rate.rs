//! Measures looking at many files: `stat_rate [DIRECTORIES] [FILES EACH]`, with 1, 2 and 4 threads.

use std::time::Instant;

use minibuild_disk::stat_batch;

fn main() {
    let mut args = std::env::args().skip(1).map(|arg| arg.parse::<usize>().expect("a number"));
    let (dirs, files) = (args.next().unwrap_or(2000), args.next().unwrap_or(100));
    let dir = tempfile::tempdir().expect("temp dir");
    let mut paths = Vec::new();
    for d in 0..dirs {
        std::fs::create_dir_all(dir.path().join(format!("some/where/d{d}"))).expect("mkdir");
        for f in 0..files {
            let path = format!("some/where/d{d}/file{f}.c");
            std::fs::write(dir.path().join(&path), "x").expect("write");
            paths.push(path);
        }
    }
    for threads in [1, 2, 4] {
        let mut times = Vec::new();
        for _ in 0..9 {
            let start = Instant::now();
            let seen = stat_batch(dir.path(), &paths, threads);
            times.push(start.elapsed());
            assert!(seen.iter().all(Option::is_some));
        }
        times.sort();
        println!("{} files, {threads} threads: median {:?}, best {:?}", paths.len(), times[4], times[0]);
    }
}
