//! What Linux tells of this process, and of others.

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

/// Processor time of all threads so far, also of those that have ended.
pub fn processor_time() -> Duration {
    let (_, spent) = parent_and_time("self").expect("Linux");
    spent
}

/// The same of the processes whose parent has this number, as far as they have not ended.
pub fn processor_time_of_children(parent: u32) -> Duration {
    let processes =
        fs::read_dir("/proc").expect("Linux").filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let children = processes.filter_map(|process| parent_and_time(&process)).filter(|(of, _)| *of == parent);
    children.map(|(_, spent)| spent).sum()
}

/// The same of one process, which has not ended.
pub fn processor_time_of(process: u32) -> Duration {
    let (_, spent) = parent_and_time(&process.to_string()).expect("Linux");
    spent
}

fn parent_and_time(process: &str) -> Option<(u32, Duration)> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // After the name, which may have spaces in it.
    let fields: Vec<_> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let ticks: u64 = fields[11..13].iter().filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    // In hundredths of a second, on every Linux.
    Some((fields[1].parse().ok()?, Duration::from_millis(ticks * 10)))
}

/// Bytes of memory that are in use.
pub fn resident() -> u64 {
    status("self", "VmRSS:") * 1024
}

/// The most bytes of memory that a process has had in use at once.
pub fn peak_memory_of(process: u32) -> u64 {
    status(&process.to_string(), "VmHWM:") * 1024
}

pub fn threads() -> u64 {
    status("self", "Threads:")
}

pub fn descriptors() -> u64 {
    fs::read_dir("/proc/self/fd").expect("Linux").count() as u64
}

fn status(process: &str, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("Linux");
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
