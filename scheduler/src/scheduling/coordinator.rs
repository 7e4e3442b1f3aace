//! The coordinator: holds the schedulers, gives them their turns, and keeps their list.

use std::collections::BTreeMap;

use proto::StoreId;
use serde_json::Value;

use super::catalog::{name_of, type_of};
use super::{Bars, Catalog, Controller, Desk, Dice, Entry, LetGo, Roster, Scheduler, after};
use crate::cluster::{Moment, Refusal};
use crate::ids::Ids;
use crate::operator::Operator;
use crate::placement::View;

/// The longest pause, in seconds: a year. A longer one is cut to it.
const PAUSE_SECONDS_MAX: u64 = 365 * 24 * 3_600;

/// What tools call all schedulers, or all checkers, together.
const ALL: &str = "all";

/// A scheduler and the controller of its speed.
#[derive(Debug)]
pub struct ScheduleController {
    /// What is to be done.
    pub scheduler: Box<dyn Scheduler>,
    /// When.
    pub controller: Controller,
}

impl ScheduleController {
    fn new(scheduler: Box<dyn Scheduler>) -> Self {
        Self { controller: Controller::new(scheduler.min_interval_ms()), scheduler }
    }

    /// Whether the scheduler may act now.
    pub fn allow_schedule(&self, view: View<'_>) -> bool {
        self.controller.allow_schedule(self.scheduler.as_ref(), view)
    }
}

/// What came of one turn.
#[derive(Debug, Default)]
pub struct Turn {
    /// Plans, each noted at the desk.
    pub operators: Vec<Operator>,
    /// A bound of ids that has to be saved before there can be more.
    pub ids_wanted: Option<u64>,
}

/// All schedulers of one leadership.
#[derive(Debug)]
pub struct Coordinator {
    catalog: Catalog,
    seats: Vec<ScheduleController>,
    /// Entries of the roster that nobody here can make: a newer member wrote them. They are kept.
    unknown: Vec<Entry>,
    paused_checkers: BTreeMap<String, u64>,
    dice: Dice,
}

impl Coordinator {
    /// The schedulers of the roster, about to begin.
    pub fn begin(catalog: Catalog, roster: Roster, seed: u64) -> Self {
        let mut begun = Self {
            catalog,
            seats: Vec::new(),
            unknown: Vec::new(),
            paused_checkers: roster.paused_checkers,
            dice: Dice::seeded(seed),
        };
        for entry in roster.schedulers {
            match begun.catalog.make(&entry.type_name, &entry.arguments) {
                Ok(scheduler) => {
                    let mut seat = ScheduleController::new(scheduler);
                    seat.controller.pause_until(entry.paused_until_ms);
                    begun.seats.push(seat);
                }
                Err(why) => {
                    tracing::warn!(name = entry.name, why, "a scheduler is not run");
                    begun.unknown.push(entry);
                }
            }
        }
        begun
    }

    /// The schedulers, in the order of their turns.
    pub fn seats(&self) -> &[ScheduleController] {
        &self.seats
    }

    /// The scheduler of this name.
    pub fn find(&self, name: &str) -> Option<&ScheduleController> {
        self.seats.iter().find(|seat| seat.scheduler.name() == name)
    }

    /// The stores whose leaders schedulers have decided about.
    pub fn bars(&self) -> Bars {
        let mut bars = Bars::default();
        for seat in &self.seats {
            bars.join(seat.scheduler.bars());
        }
        bars
    }

    /// The list and the arguments of all, as they are kept.
    pub fn roster(&self, moment: Moment) -> Roster {
        let entries = self.seats.iter().map(|seat| Entry {
            name: seat.scheduler.name().to_owned(),
            type_name: seat.scheduler.type_name().to_owned(),
            arguments: seat.scheduler.arguments(),
            paused_until_ms: seat.controller.paused_until(moment).unwrap_or(0),
        });
        let mut paused_checkers = self.paused_checkers.clone();
        paused_checkers.retain(|_, until_ms| *until_ms > moment.wall_ms);
        Roster {
            schedulers: entries.chain(self.unknown.iter().cloned()).collect(),
            paused_checkers,
        }
    }

    /// Gives one scheduler its turn, if it is due and may act.
    pub fn turn(&mut self, number: usize, view: View<'_>, ids: &mut Ids) -> Option<Turn> {
        let seat = self.seats.get_mut(number)?;
        if !seat.controller.is_due(view.moment) {
            return None;
        }
        if !seat.allow_schedule(view) {
            // As good as a look in vain: what is held up for long is looked at ever more seldom.
            self.looked(number, false, view.moment);
            return None;
        }
        let room = view.operators.room(seat.scheduler.purpose(), view.policy);
        let mut desk = Desk::new(view, ids, &mut self.dice, room);
        let operators = seat.scheduler.schedule(&mut desk);
        Some(Turn { operators, ids_wanted: desk.ids_wanted() })
    }

    /// The turn is over: whether any of its plans was taken up.
    pub fn looked(&mut self, number: usize, has_acted: bool, moment: Moment) {
        if let Some(ScheduleController { scheduler, controller }) = self.seats.get_mut(number) {
            controller.looked(scheduler.as_ref(), has_acted, moment);
        }
    }

    /// Steady time of the next turn; `None` when there is nobody to take one.
    pub fn next_at_ms(&self) -> Option<u64> {
        self.seats.iter().map(|seat| seat.controller.next_at_ms()).min()
    }

    /// One more scheduler, by the name or the type that tools know. One that holds stores and is there
    /// already takes the new one over.
    pub fn add(&mut self, name: &str, arguments: &Value, view: View<'_>) -> Result<(), Refusal> {
        let name = name_of(type_of(name));
        if let Some(number) = self.number_of(&name) {
            let holds = self.seats[number].scheduler.arguments();
            // Only those that hold stores can take one more.
            if holds.get("store-id-ranges").is_none() {
                return Err(Refusal::Duplicate("scheduler existed".into()));
            }
            return self.configure(&name, arguments, view);
        }
        let made = self.catalog.make(type_of(&name), arguments).map_err(Refusal::InvalidValue)?;
        self.take_on(made, view)
    }

    /// One more scheduler, made elsewhere.
    pub fn take_on(&mut self, made: Box<dyn Scheduler>, view: View<'_>) -> Result<(), Refusal> {
        if self.number_of(made.name()).is_some() {
            return Err(Refusal::Duplicate("scheduler existed".into()));
        }
        let mut made = made;
        made.prepare(view).map_err(Refusal::InvalidValue)?;
        self.seats.push(ScheduleController::new(made));
        Ok(())
    }

    /// Ends a scheduler; with a store's id behind its name only what it does to that store.
    pub fn remove(&mut self, name: &str) -> Result<(), Refusal> {
        if let Some(number) = self.number_of(&name_of(type_of(name))) {
            self.end(number);
            return Ok(());
        }
        let (of, store) = name.rsplit_once('-').ok_or_else(not_found)?;
        let store = store.parse().map(StoreId).map_err(|_| not_found())?;
        let number = self.number_of(&name_of(type_of(of))).ok_or_else(not_found)?;
        match self.seats[number].scheduler.let_go(store) {
            LetGo::NotHeld => Err(not_found()),
            LetGo::HoldsOthers => Ok(()),
            LetGo::WasLast => {
                self.end(number);
                Ok(())
            }
        }
    }

    fn end(&mut self, number: usize) {
        let mut seat = self.seats.remove(number);
        seat.controller.stop();
        seat.scheduler.cleanup();
    }

    /// Keeps a scheduler, or all, from acting for so long; 0 lets it act again.
    pub fn pause(&mut self, name: &str, seconds: u64, moment: Moment) -> Result<(), Refusal> {
        let until_ms = until(seconds, moment);
        if name == ALL {
            self.seats.iter_mut().for_each(|seat| seat.controller.pause_until(until_ms));
            return Ok(());
        }
        let number = self.number_of(&name_of(type_of(name))).ok_or_else(not_found)?;
        self.seats[number].controller.pause_until(until_ms);
        Ok(())
    }

    /// Gives a scheduler new arguments.
    pub fn configure(
        &mut self,
        name: &str,
        arguments: &Value,
        view: View<'_>,
    ) -> Result<(), Refusal> {
        let number = self.number_of(&name_of(type_of(name))).ok_or_else(not_found)?;
        let scheduler = &mut self.seats[number].scheduler;
        scheduler.configure(arguments, view).map_err(Refusal::InvalidValue)
    }

    /// Keeps a checker, or all, from acting for so long; 0 lets it act again.
    pub fn pause_checker(
        &mut self,
        name: &str,
        seconds: u64,
        moment: Moment,
    ) -> Result<(), Refusal> {
        let names: Vec<&str> =
            CHECKERS.iter().copied().filter(|checker| name == ALL || name == *checker).collect();
        if names.is_empty() {
            return Err(Refusal::NotFound(format!(
                "there is no checker {name}; there are {}",
                CHECKERS.join(", ")
            )));
        }
        for name in names {
            self.paused_checkers.insert(name.to_owned(), until(seconds, moment));
        }
        Ok(())
    }

    /// Whether the checker may not act now; a refusal when there is none of that name.
    pub fn is_checker_paused(&self, name: &str, moment: Moment) -> Result<bool, Refusal> {
        if !CHECKERS.contains(&name) {
            return Err(Refusal::NotFound(format!("there is no checker {name}")));
        }
        Ok(self.paused_checkers.get(name).is_some_and(|until_ms| *until_ms > moment.wall_ms))
    }

    fn number_of(&self, name: &str) -> Option<usize> {
        self.seats.iter().position(|seat| seat.scheduler.name() == name)
    }
}

/// The checkers that can pause, as tools name them.
const CHECKERS: &[&str] = &["learner", "replica", "rule", "split", "merge", "joint-state"];

fn not_found() -> Refusal {
    Refusal::NotFound("scheduler not found".into())
}

fn until(seconds: u64, moment: Moment) -> u64 {
    if seconds == 0 { 0 } else { after(moment, seconds.min(PAUSE_SECONDS_MAX)) }
}
