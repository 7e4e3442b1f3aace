//! What an idle playground costs: processor time and memory of its one process, with one region or many.

use std::time::{Duration, Instant};

use serde_json::json;

use super::child::Playground;
use super::regions;
use crate::exit::{Failure, Outcome};
use crate::output::{Format, Report};

/// Time for the start's own work to die down before the watch begins.
const SETTLE: Duration = Duration::from_secs(3);

/// Processor time in /proc is counted in hundredths of a second on every Linux of ours.
const TICKS_PER_SECOND: f64 = 100.0;

/// Watches for some seconds and prints.
pub(crate) async fn run(seconds: u64, count: u32) -> Outcome {
    let playground = Playground::start(false).await?;
    let mut fields = vec![("start to first commit", format!("{} ms", playground.took.as_millis()))];
    let mut document = json!({ "start_ms": playground.took.as_millis() as u64, "regions": count });
    if count > 1 {
        let cut = regions::cut(&playground.endpoints(), count as usize).await?;
        fields.push(("cut into regions", format!("{count} in {:.1} s", cut.split.as_secs_f64())));
        fields.push(("until they rest", format!("{:.1} s", cut.rest.as_secs_f64())));
        document["split_s"] = cut.split.as_secs_f64().into();
        document["rest_s"] = cut.rest.as_secs_f64().into();
    }
    tokio::time::sleep(SETTLE).await;
    let pid = playground.pid();
    let (before, start) = (processor_ticks(pid)?, Instant::now());
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let used = (processor_ticks(pid)? - before) as f64 / TICKS_PER_SECOND;
    let percent = 100.0 * used / start.elapsed().as_secs_f64();
    let resident = resident_kib(pid)? as f64 / 1024.0;
    fields.push(("idle processor", format!("{percent:.2} % of a core")));
    fields.push(("resident memory", format!("{resident:.0} MiB")));
    document["idle_percent_of_core"] = percent.into();
    document["resident_mib"] = resident.into();
    Report::fields(fields, document).print(Format::Table);
    playground.stop().await
}

fn processor_ticks(pid: u32) -> Outcome<u64> {
    let path = format!("/proc/{pid}/stat");
    let text =
        std::fs::read_to_string(&path).map_err(|e| Failure::failed(format!("read {path}: {e}")))?;
    // The second field is the program's name in parentheses and may hold anything.
    let rest = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields: Vec<u64> =
        rest.split_whitespace().skip(11).take(2).filter_map(|f| f.parse().ok()).collect();
    match fields.as_slice() {
        [user, system] => Ok(user + system),
        _ => Err(Failure::failed(format!("{path} does not hold processor times"))),
    }
}

fn resident_kib(pid: u32) -> Outcome<u64> {
    let path = format!("/proc/{pid}/status");
    let text =
        std::fs::read_to_string(&path).map_err(|e| Failure::failed(format!("read {path}: {e}")))?;
    text.lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|line| line.split_whitespace().next())
        .and_then(|kib| kib.parse().ok())
        .ok_or_else(|| Failure::failed(format!("{path} does not hold the resident size")))
}
