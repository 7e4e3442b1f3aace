//! Runs the scripts in `testscripts/`: reports arrive, and the picture is looked at.

use std::error::Error;
use std::sync::Arc;

use goldenscript::{Command, Context, Runner};
use proto::{RegionId, StoreId};

use super::{RegionRecord, Regions, Verdict};
use crate::cluster::notation;

#[derive(Default)]
struct Picture {
    regions: Regions,
    /// Halves gathered for the next `split`.
    halves: Vec<proto::metapb::Region>,
}

fn lines<'a>(records: impl IntoIterator<Item = &'a Arc<RegionRecord>>) -> String {
    let text: String =
        records.into_iter().map(|record| notation::describe(record) + "\n").collect();
    if text.is_empty() { "none\n".into() } else { text }
}

impl Runner for Picture {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Result<String, Box<dyn Error>> {
        let mut args = command.consume_args();
        let output = match command.name.as_str() {
            // A leader's report, or (without leader=) what was loaded from the log.
            "hear" => {
                let record = notation::record(command)?;
                return Ok(match self.regions.offer(record) {
                    Verdict::Unchanged => "unchanged\n".into(),
                    Verdict::Updated => "updated\n".into(),
                    Verdict::Replaced { removed } if removed.is_empty() => "replaced\n".into(),
                    Verdict::Replaced { removed } => {
                        let removed: Vec<_> = removed.iter().map(ToString::to_string).collect();
                        format!("replaced, gone: {}\n", removed.join(" "))
                    }
                    Verdict::Stale(stale) => format!("stale: {stale}\n"),
                });
            }
            "half" => {
                self.halves.push(notation::record(command)?.region);
                return Ok(String::new());
            }
            "split" => {
                let (news, gone) = self.regions.on_split(std::mem::take(&mut self.halves))?;
                let news: String = news
                    .iter()
                    .map(|region| format!("write {}\n", proto::region::Readable(region)))
                    .collect();
                let gone: String = gone.iter().map(|id| format!("forget {id}\n")).collect();
                news + &gone
            }
            "regions" => lines(self.regions.iter()),
            "get" => lines(self.regions.by_key(args.next_pos().unwrap_or("").as_bytes())),
            "previous" => lines(self.regions.previous_of(args.next_pos().unwrap_or("").as_bytes())),
            "id" => {
                let id = notation::number('r', args.next_pos().ok_or("which?")?)?;
                lines(self.regions.by_id(RegionId(id)))
            }
            "siblings" => {
                let id = notation::number('r', args.next_pos().ok_or("which?")?)?;
                let (before, after) = self.regions.siblings(RegionId(id));
                format!("before: {}after: {}", lines(before), lines(after))
            }
            "scan" => {
                let limit = args.take_key("limit").map_or(Ok(0), str::parse)?;
                let range = notation::range(args.next_pos().unwrap_or("[-inf,+inf)"))?;
                lines(&self.regions.scan(&range, limit))
            }
            "batch-scan" => {
                let limit = args.take_key("limit").map_or(Ok(0), str::parse)?;
                let contain_all = args.take_key("contain-all").is_some();
                let mut ranges = Vec::new();
                while let Some(range) = args.next_pos() {
                    ranges.push(notation::range(range)?);
                }
                lines(&self.regions.batch_scan(&ranges, limit, contain_all)?)
            }
            "store" => {
                let id = StoreId(notation::number('s', args.next_pos().ok_or("which?")?)?);
                let counts = self.regions.counts(id);
                format!(
                    "leaders={} regions={} learners={} pending={} leader-mib={} mib={}\n",
                    counts.leaders,
                    counts.regions,
                    counts.learners,
                    counts.pending,
                    counts.leader_size_mib,
                    counts.region_size_mib
                )
            }
            other => return Err(format!("unknown command {other}").into()),
        };
        args.reject_next()?;
        Ok(output)
    }
}

test_each_file::test_each_path! { in "./scheduler/src/cluster/regions/testscripts" => run }

fn run(path: &std::path::Path) {
    goldenscript::run(&mut Picture::default(), path).expect("the script can be run");
}
