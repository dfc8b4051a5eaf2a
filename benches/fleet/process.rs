//! What Linux tells of this process.

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

/// Processor time of all threads so far, also of those that have ended.
pub fn processor_time() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").expect("Linux");
    // After the name, which may have spaces in it.
    let fields = stat.rsplit_once(") ").map(|(_, fields)| fields.split(' ')).expect("a name");
    let ticks: u64 = fields.skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number")).sum();
    // In hundredths of a second, on every Linux.
    Duration::from_millis(ticks * 10)
}

/// Bytes of memory that are in use.
pub fn resident() -> u64 {
    status("VmRSS:") * 1024
}

pub fn threads() -> u64 {
    status("Threads:")
}

pub fn descriptors() -> u64 {
    fs::read_dir("/proc/self/fd").expect("Linux").count() as u64
}

fn status(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let value = status.lines().find_map(|line| line.strip_prefix(name)).expect(name);
    value.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number")
}

/// The most threads and descriptors that there were while `work` ran, looked at every 2 ms.
pub fn most_during<T>(work: impl FnOnce() -> T) -> (T, u64, u64) {
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let watching = scope.spawn(|| {
            let mut most = (0, 0);
            while !ended.load(Ordering::Relaxed) {
                most = (most.0.max(threads()), most.1.max(descriptors()));
                thread::sleep(Duration::from_millis(2));
            }
            most
        });
        let done = work();
        ended.store(true, Ordering::Relaxed);
        let (threads, descriptors) = watching.join().expect("no panic");
        (done, threads, descriptors)
    })
}
