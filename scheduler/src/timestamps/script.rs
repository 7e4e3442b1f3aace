//! Runs the scripts in `testscripts/`: a leader of the scheduler group, its clocks and the bound
//! in its log.

use std::error::Error;

use goldenscript::{Command, Context, Runner};

use super::{Answer, Timestamps};
use crate::cluster::Moment;

/// The group as far as it matters here: one bound in the log, one leader or none.
#[derive(Default)]
struct Group {
    moment: Moment,
    saved_bound_ms: u64,
    leader: Option<Timestamps>,
    /// What `save` makes durable.
    asked: Option<u64>,
}

impl Group {
    fn leader(&mut self) -> Result<&mut Timestamps, Box<dyn Error>> {
        self.leader.as_mut().ok_or_else(|| "nobody leads".into())
    }
}

impl Runner for Group {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Result<String, Box<dyn Error>> {
        let mut args = command.consume_args();
        let output = match command.name.as_str() {
            // Time passes on both clocks.
            "pass" => {
                let ms: u64 = args.next_pos().ok_or("how long, in ms?")?.parse()?;
                self.moment.steady_ms += ms;
                self.moment.wall_ms += ms;
                String::new()
            }
            // Somebody sets the wall clock.
            "clock" => {
                self.moment.wall_ms = args.next_pos().ok_or("to what, in ms?")?.parse()?;
                String::new()
            }
            // A new leader begins with the bound in the log.
            "elect" => {
                self.leader = Some(Timestamps::begin(self.saved_bound_ms, self.moment));
                format!("begins above {}\n", self.saved_bound_ms)
            }
            "grant" => {
                let count: u32 = args.next_pos().unwrap_or("1").parse()?;
                let moment = self.moment;
                match self.leader()?.grant(count, moment) {
                    Answer::Granted { last } => {
                        let first = last.logical() + 1 - u64::from(count);
                        format!("{}.{first}..={}\n", last.physical(), last.logical())
                    }
                    Answer::NeedBound(bound_ms) => {
                        self.asked = Some(bound_ms);
                        format!("needs bound {bound_ms}\n")
                    }
                    Answer::Refused(why) => format!("refused: {why}\n"),
                }
            }
            "tick" => {
                let moment = self.moment;
                match self.leader()?.wants_bound(moment) {
                    Some(bound_ms) => {
                        self.asked = Some(bound_ms);
                        format!("wants bound {bound_ms}\n")
                    }
                    None => "wants nothing\n".into(),
                }
            }
            // The bound is in the log; whether the leader hears of it is another matter.
            "commit" => {
                self.saved_bound_ms = self.asked.take().ok_or("nothing was asked for")?;
                format!("log: bound {}\n", self.saved_bound_ms)
            }
            "save" => {
                self.saved_bound_ms = self.asked.take().ok_or("nothing was asked for")?;
                let bound_ms = self.saved_bound_ms;
                self.leader()?.bound_saved(bound_ms);
                format!("log: bound {bound_ms}\n")
            }
            "news" => match self.leader()?.clock_news() {
                Some(news) => format!("{news}\n"),
                None => "nothing new\n".into(),
            },
            "step" => format!("clock is off by {} ms\n", self.leader()?.clock_step_ms()),
            other => return Err(format!("unknown command {other}").into()),
        };
        args.reject_next()?;
        Ok(output)
    }
}

test_each_file::test_each_path! { in "./scheduler/src/timestamps/testscripts" => run }

fn run(path: &std::path::Path) {
    goldenscript::run(&mut Group::default(), path).expect("the script can be run");
}
