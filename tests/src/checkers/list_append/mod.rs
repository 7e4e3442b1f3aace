//! Isolation, found out from lists: nobody's timestamps are believed.
//!
//! Each key holds a list. A transaction reads whole lists and appends numbers that nobody else appends, so a
//! list that was read tells who wrote it and in which order, and so how transactions depend on each other:
//!
//! | edge | from A to B because |
//! |---|---|
//! | ww | B appended right after A, to the same list |
//! | wr | B read a list that ends with what A appended |
//! | rw | A read a list without what B appended next |
//! | rt | A had ended before B began |
//!
//! A circle of edges is an anomaly, and the kinds of its edges give it its name (those of Adya, Liskov and
//! O'Neil, as Kingsbury and Alvaro extended them):
//!
//! | circle | made of | forbidden under snapshot isolation |
//! |---|---|---|
//! | G0 | ww | yes |
//! | G1c | ww and wr | yes |
//! | G-single | one rw and otherwise ww and wr | yes |
//! | G-nonadjacent | several rw, no two of them in a row | yes |
//! | G2 | two rw in a row | no: that is write skew |
//!
//! With rt edges in it the same circles carry "-realtime": time is broken, though each transaction by itself
//! is in order. Here that is forbidden as well: a transaction sees what was acknowledged before it began.
//!
//! Not circles: G1a (a read of what was aborted), G1b (of what its writer went on to change), an internal
//! contradiction, a number that nobody appended or that is there twice, lists that are not one another's
//! beginnings, an update that is lost.
//!
//! A transaction of unknown fate takes part when somebody has read what it wrote. One that nobody has read is
//! left out, like whatever an aborted one did.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

/// One step of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// It adds a number to the list of a key.
    Append(u64, u64),
    /// It reads the list of a key.
    Read(u64, Vec<u64>),
}

/// How a transaction ended, for all that its client knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Committed.
    Ok,
    /// Not committed, for certain.
    Failed,
    /// Nobody knows.
    Unknown,
}

/// One transaction on lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListTransaction {
    /// Stamp before its first step.
    pub began: u64,
    /// Stamp after its end; `u64::MAX` when its client never heard.
    pub ended: u64,
    /// How it ended.
    pub ending: Ending,
    /// What it did, in order.
    pub steps: Vec<Step>,
}

impl fmt::Display for ListTransaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}[{}..{}]", self.ending, self.began, self.ended)?;
        self.steps.iter().try_for_each(|step| match step {
            Step::Append(key, number) => write!(f, " a{key}+{number}"),
            Step::Read(key, list) => write!(f, " r{key}={list:?}"),
        })
    }
}

/// The name of what is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// One number appended twice, by one or by two: the history itself is no good.
    AppendedTwice,
    /// A list with a number twice: a write was repeated.
    Duplicate,
    /// A list with a number that nobody appended.
    Invented,
    /// A transaction contradicts itself.
    Internal,
    /// Two lists of a key of which neither begins the other.
    IncompatibleOrder,
    /// What an aborted transaction wrote was read.
    G1a,
    /// What a transaction wrote was read before it had written all of it.
    G1b,
    /// Two read one list and both appended to it.
    LostUpdate,
    /// Writes in a circle.
    G0,
    /// Writes and reads in a circle.
    G1c,
    /// One read of the past closes a circle.
    GSingle,
    /// Several reads of the past close a circle, no two in a row.
    GNonadjacent,
    /// Two reads of the past in a row close a circle: write skew.
    G2,
    /// Writes in a circle with time.
    G0Realtime,
    /// Writes and reads in a circle with time.
    G1cRealtime,
    /// One read of the past closes a circle with time.
    GSingleRealtime,
    /// Several reads of the past close a circle with time, no two in a row.
    GNonadjacentRealtime,
    /// Two reads of the past in a row close a circle with time.
    G2Realtime,
}

impl Kind {
    /// Whether snapshot isolation allows it.
    pub fn is_allowed(self) -> bool {
        matches!(self, Self::G2 | Self::G2Realtime)
    }
}

/// Something wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anomaly {
    /// Its name.
    pub kind: Kind,
    /// What shows it.
    pub words: String,
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.words)
    }
}

/// Every kind of anomaly in a history, each once, with an example.
pub fn check(history: &[ListTransaction]) -> Vec<Anomaly> {
    let mut found = Found::default();
    let Some(writers) = Writers::of(history, &mut found) else { return found.into_list() };
    check_inside(history, &mut found);
    let orders = orders_of(history, &mut found);
    check_elements(history, &orders, &writers, &mut found);
    check_lost_updates(history, &writers, &mut found);
    // Circles among lists that contradict each other mean nothing.
    let is_sound = !found.has(Kind::IncompatibleOrder) && !found.has(Kind::Invented);
    if is_sound && !found.has(Kind::Duplicate) {
        let graph = Graph::of(history, &orders, &writers);
        graph.find_circles(history, &mut found);
    }
    found.into_list()
}

/// The first anomaly that snapshot isolation forbids.
pub fn check_snapshot_isolation(history: &[ListTransaction]) -> Result<(), String> {
    match check(history).into_iter().find(|anomaly| !anomaly.kind.is_allowed()) {
        None => Ok(()),
        Some(anomaly) => Err(anomaly.to_string()),
    }
}

/// One example of each kind.
#[derive(Default)]
struct Found(BTreeMap<Kind, String>);

impl Found {
    fn add(&mut self, kind: Kind, words: impl FnOnce() -> String) {
        self.0.entry(kind).or_insert_with(words);
    }

    fn has(&self, kind: Kind) -> bool {
        self.0.contains_key(&kind)
    }

    fn into_list(self) -> Vec<Anomaly> {
        self.0.into_iter().map(|(kind, words)| Anomaly { kind, words }).collect()
    }
}

/// Who appended which number to which key, and as the how manieth of its appends to it.
struct Writers {
    of: BTreeMap<(u64, u64), usize>,
    /// By transaction and key: its appends, in order.
    appends: BTreeMap<(usize, u64), Vec<u64>>,
}

impl Writers {
    fn of(history: &[ListTransaction], found: &mut Found) -> Option<Self> {
        let mut writers = Self { of: BTreeMap::new(), appends: BTreeMap::new() };
        for (at, transaction) in history.iter().enumerate() {
            for step in &transaction.steps {
                let Step::Append(key, number) = step else { continue };
                if writers.of.insert((*key, *number), at).is_some() {
                    found.add(Kind::AppendedTwice, || format!("{number} to key {key}"));
                    return None;
                }
                writers.appends.entry((at, *key)).or_default().push(*number);
            }
        }
        Some(writers)
    }

    /// Whether the transaction went on to append to this key after this number.
    fn goes_on(&self, at: usize, key: u64, number: u64) -> bool {
        self.appends[&(at, key)].last() != Some(&number)
    }
}

/// A transaction sees its own appends behind what it saw before, and nothing else new.
fn check_inside(history: &[ListTransaction], found: &mut Found) {
    for transaction in history.iter().filter(|t| t.ending != Ending::Failed) {
        let mut seen: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        let mut own: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for step in &transaction.steps {
            match step {
                Step::Append(key, number) => {
                    own.entry(*key).or_default().push(*number);
                    if let Some(list) = seen.get_mut(key) {
                        list.push(*number);
                    }
                }
                Step::Read(key, list) => {
                    let fits = match seen.get(key) {
                        Some(expected) => expected == list,
                        None => list.ends_with(own.get(key).map_or(&[], Vec::as_slice)),
                    };
                    if !fits {
                        found.add(Kind::Internal, || format!("key {key} in {transaction}"));
                    }
                    seen.insert(*key, list.clone());
                }
            }
        }
    }
}

/// By key: what was read from the store by those who may be committed, own appends left aside.
fn external_reads(transaction: &ListTransaction) -> Vec<(u64, &[u64])> {
    let mut own: BTreeMap<u64, usize> = BTreeMap::new();
    let mut reads = Vec::new();
    for step in &transaction.steps {
        match step {
            Step::Append(key, _) => *own.entry(*key).or_default() += 1,
            Step::Read(key, list) => {
                let theirs = list.len().saturating_sub(own.get(key).copied().unwrap_or(0));
                reads.push((*key, &list[..theirs]));
            }
        }
    }
    reads
}

/// By key: the longest list that anybody read; all others must begin it.
fn orders_of(history: &[ListTransaction], found: &mut Found) -> BTreeMap<u64, Vec<u64>> {
    let mut orders: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    let reads = || history.iter().filter(|t| t.ending != Ending::Failed).flat_map(external_reads);
    for (key, list) in reads() {
        let longest = orders.entry(key).or_default();
        if list.len() > longest.len() {
            *longest = list.to_vec();
        }
    }
    for (key, list) in reads() {
        let longest = &orders[&key];
        if !longest.starts_with(list) {
            found.add(Kind::IncompatibleOrder, || format!("key {key}: {list:?} and {longest:?}"));
        }
        let distinct: BTreeSet<u64> = list.iter().copied().collect();
        if distinct.len() < list.len() {
            found.add(Kind::Duplicate, || format!("key {key}: {list:?}"));
        }
    }
    orders
}

/// Whose numbers are in the lists: nobody's, an aborted transaction's, half a transaction's?
fn check_elements(
    history: &[ListTransaction],
    orders: &BTreeMap<u64, Vec<u64>>,
    writers: &Writers,
    found: &mut Found,
) {
    // The lists that were read need not fit together, so each is looked at, not the longest alone.
    let all = orders.iter().map(|(key, list)| (*key, list.as_slice()));
    let reads = history.iter().filter(|t| t.ending != Ending::Failed).flat_map(external_reads);
    for (key, list) in all.chain(reads) {
        for number in list {
            match writers.of.get(&(key, *number)) {
                None => found.add(Kind::Invented, || format!("{number} in key {key}")),
                Some(writer) if history[*writer].ending == Ending::Failed => {
                    found.add(Kind::G1a, || {
                        format!("{number} in key {key}, written by {}", history[*writer])
                    });
                }
                Some(_) => {}
            }
        }
    }
    for (at, transaction) in history.iter().enumerate() {
        if transaction.ending == Ending::Failed {
            continue;
        }
        for (key, list) in external_reads(transaction) {
            let Some(last) = list.last() else { continue };
            let Some(writer) = writers.of.get(&(key, *last)) else { continue };
            if *writer != at && writers.goes_on(*writer, key, *last) {
                found.add(Kind::G1b, || {
                    format!("key {key} ends with {last} in {transaction}; but {}", history[*writer])
                });
            }
        }
    }
}

/// Two committed transactions that read one list and both appended to it.
fn check_lost_updates(history: &[ListTransaction], writers: &Writers, found: &mut Found) {
    let mut readers: BTreeMap<(u64, &[u64]), usize> = BTreeMap::new();
    for (at, transaction) in history.iter().enumerate() {
        if transaction.ending != Ending::Ok {
            continue;
        }
        let mut first_reads: BTreeMap<u64, &[u64]> = BTreeMap::new();
        for (key, list) in external_reads(transaction) {
            first_reads.entry(key).or_insert(list);
        }
        for (key, list) in first_reads {
            if !writers.appends.contains_key(&(at, key)) {
                continue;
            }
            if let Some(other) = readers.insert((key, list), at) {
                found.add(Kind::LostUpdate, || {
                    format!("key {key}: {}, and {transaction}", history[other])
                });
            }
        }
    }
}

/// Why one transaction comes before another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Edge {
    Ww,
    Wr,
    Rw,
    Rt,
}

impl Edge {
    fn words(self) -> &'static str {
        match self {
            Self::Ww => "ww",
            Self::Wr => "wr",
            Self::Rw => "rw",
            Self::Rt => "rt",
        }
    }
}

/// Which edges a circle may have.
#[derive(Clone, Copy)]
struct Search {
    kind: Kind,
    edges: &'static [Edge],
    reads_of_past: Past,
}

/// How many rw edges a circle has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Past {
    None,
    One,
    Apart,
    Any,
}

/// The searches, from the narrowest name to the widest: what is forbidden first. A history's circles take the
/// first name that fits one of them.
const SEARCHES: &[Search] = {
    use Edge::{Rt, Rw, Wr, Ww};
    &[
        Search { kind: Kind::G0, edges: &[Ww], reads_of_past: Past::None },
        Search { kind: Kind::G1c, edges: &[Ww, Wr], reads_of_past: Past::None },
        Search { kind: Kind::GSingle, edges: &[Ww, Wr, Rw], reads_of_past: Past::One },
        Search { kind: Kind::GNonadjacent, edges: &[Ww, Wr, Rw], reads_of_past: Past::Apart },
        Search { kind: Kind::G0Realtime, edges: &[Ww, Rt], reads_of_past: Past::None },
        Search { kind: Kind::G1cRealtime, edges: &[Ww, Wr, Rt], reads_of_past: Past::None },
        Search { kind: Kind::GSingleRealtime, edges: &[Ww, Wr, Rw, Rt], reads_of_past: Past::One },
        Search {
            kind: Kind::GNonadjacentRealtime,
            edges: &[Ww, Wr, Rw, Rt],
            reads_of_past: Past::Apart,
        },
        Search { kind: Kind::G2, edges: &[Ww, Wr, Rw], reads_of_past: Past::Any },
        Search { kind: Kind::G2Realtime, edges: &[Ww, Wr, Rw, Rt], reads_of_past: Past::Any },
    ]
};

/// Who comes before whom. Nodes past the transactions are moments: rt edges lead through them, so that
/// there are as many as transactions and not as pairs of them.
struct Graph {
    after: Vec<BTreeSet<(usize, Edge)>>,
    transactions: usize,
}

impl Graph {
    fn of(
        history: &[ListTransaction],
        orders: &BTreeMap<u64, Vec<u64>>,
        writers: &Writers,
    ) -> Self {
        let mut graph =
            Self { after: vec![BTreeSet::new(); history.len()], transactions: history.len() };
        let takes_part = |at: usize| match history[at].ending {
            Ending::Ok => true,
            Ending::Failed => false,
            Ending::Unknown => history[at].steps.iter().any(|step| match step {
                Step::Append(key, number) => {
                    orders.get(key).is_some_and(|list| list.contains(number))
                }
                Step::Read(..) => false,
            }),
        };
        graph.add_writes(orders, writers);
        for (at, transaction) in history.iter().enumerate().filter(|(at, _)| takes_part(*at)) {
            for (key, list) in external_reads(transaction) {
                graph.add_read(at, key, list, &orders[&key], writers);
            }
        }
        // What was committed and never seen comes after everybody who did not see it.
        for ((key, number), writer) in &writers.of {
            let is_seen = orders.get(key).is_some_and(|list| list.contains(number));
            if history[*writer].ending != Ending::Ok || is_seen {
                continue;
            }
            for (at, _) in history.iter().enumerate().filter(|(at, _)| takes_part(*at)) {
                if external_reads(&history[at]).iter().any(|(read, _)| read == key) {
                    graph.add(at, *writer, Edge::Rw);
                }
            }
        }
        graph.add_time(history);
        graph
    }

    fn add(&mut self, from: usize, to: usize, edge: Edge) {
        if from != to {
            self.after[from].insert((to, edge));
        }
    }

    fn add_writes(&mut self, orders: &BTreeMap<u64, Vec<u64>>, writers: &Writers) {
        for (key, list) in orders {
            for [one, two] in list.array_windows() {
                if let (Some(a), Some(b)) =
                    (writers.of.get(&(*key, *one)), writers.of.get(&(*key, *two)))
                {
                    self.add(*a, *b, Edge::Ww);
                }
            }
        }
    }

    fn add_read(&mut self, at: usize, key: u64, list: &[u64], order: &[u64], writers: &Writers) {
        if let Some(writer) = list.last().and_then(|last| writers.of.get(&(key, *last))) {
            self.add(*writer, at, Edge::Wr);
        }
        // The next that is not its own.
        let rest = &order[list.len()..];
        let next = rest.iter().filter_map(|number| writers.of.get(&(key, *number)));
        if let Some(writer) = next.into_iter().find(|writer| **writer != at) {
            self.add(at, *writer, Edge::Rw);
        }
    }

    /// Ends lead to the moments behind them, moments to the beginnings behind them.
    fn add_time(&mut self, history: &[ListTransaction]) {
        let mut moments: Vec<(u64, bool, usize)> = Vec::new();
        for (at, transaction) in history.iter().enumerate() {
            if transaction.ending == Ending::Failed {
                continue;
            }
            moments.push((transaction.began, false, at));
            if transaction.ending == Ending::Ok {
                moments.push((transaction.ended, true, at));
            }
        }
        moments.sort_unstable();
        let mut last_moment = None;
        for (_, is_end, at) in moments {
            if is_end {
                let moment = self.after.len();
                self.after.push(BTreeSet::new());
                if let Some(before) = last_moment {
                    self.add(before, moment, Edge::Rt);
                }
                self.add(at, moment, Edge::Rt);
                last_moment = Some(moment);
            } else if let Some(before) = last_moment {
                self.add(before, at, Edge::Rt);
            }
        }
    }

    fn find_circles(&self, history: &[ListTransaction], found: &mut Found) {
        for search in SEARCHES {
            // A circle that has its name fits every wider search as well.
            if found.0.keys().any(|kind| *kind >= Kind::G0) {
                break;
            }
            if let Some(circle) = self.circle(search) {
                found.add(search.kind, || self.tell(&circle, history));
            }
        }
    }

    /// A shortest circle that fits the search, as nodes and the edges that leave them.
    fn circle(&self, search: &Search) -> Option<Vec<(usize, Edge)>> {
        let groups = self.groups(search.edges);
        let mut of_group: BTreeMap<usize, usize> = BTreeMap::new();
        for (number, group) in groups.iter().enumerate().filter(|(_, group)| group.len() > 1) {
            of_group.extend(group.iter().map(|node| (*node, number)));
        }
        // Circles begin with an rw edge where there must be one, else anywhere.
        let begins_with_past = search.reads_of_past != Past::None;
        for (from, group) in &of_group {
            for (to, edge) in &self.after[*from] {
                let fits = search.edges.contains(edge)
                    && of_group.get(to) == Some(group)
                    && (!begins_with_past || *edge == Edge::Rw);
                if fits && let Some(mut rest) = self.way(*to, *from, search, &of_group, *group) {
                    rest.insert(0, (*from, *edge));
                    return Some(rest);
                }
            }
        }
        None
    }

    /// A shortest way back from `from` to `to` inside a group, with the rw edges that the search allows behind
    /// a first one.
    fn way(
        &self,
        from: usize,
        to: usize,
        search: &Search,
        of_group: &BTreeMap<usize, usize>,
        group: usize,
    ) -> Option<Vec<(usize, Edge)>> {
        let begin: Place = (from, search.reads_of_past == Past::Apart);
        let mut came_from: BTreeMap<Place, (Place, Edge)> = BTreeMap::new();
        let mut queue = VecDeque::from([begin]);
        while let Some(place) = queue.pop_front() {
            let (node, came_over_past) = place;
            for (next, edge) in &self.after[node] {
                if !search.edges.contains(edge) || of_group.get(next) != Some(&group) {
                    continue;
                }
                let is_past = *edge == Edge::Rw;
                let may = match search.reads_of_past {
                    Past::None | Past::Any => true,
                    Past::One => !is_past,
                    // The edge that closes the circle meets the rw edge that began it.
                    Past::Apart => !is_past || (!came_over_past && *next != to),
                };
                let next_place = (*next, is_past && search.reads_of_past == Past::Apart);
                if !may || next_place == begin || came_from.contains_key(&next_place) {
                    continue;
                }
                came_from.insert(next_place, (place, *edge));
                if *next == to {
                    return Some(unwind(next_place, begin, &came_from));
                }
                queue.push_back(next_place);
            }
        }
        None
    }

    /// Groups of nodes that reach each other over these edges (Tarjan's algorithm, without recursion).
    fn groups(&self, edges: &[Edge]) -> Vec<Vec<usize>> {
        let count = self.after.len();
        let next_of = |node: usize| -> Vec<usize> {
            self.after[node].iter().filter(|(_, e)| edges.contains(e)).map(|(to, _)| *to).collect()
        };
        let (mut index, mut low) = (vec![usize::MAX; count], vec![0; count]);
        let mut on_stack = vec![false; count];
        let (mut stack, mut groups, mut counter) = (Vec::new(), Vec::new(), 0);
        for root in 0..count {
            if index[root] != usize::MAX {
                continue;
            }
            let mut work: Vec<(usize, Vec<usize>)> = Vec::new();
            let mut enter = Some(root);
            loop {
                if let Some(node) = enter.take() {
                    (index[node], low[node]) = (counter, counter);
                    counter += 1;
                    stack.push(node);
                    on_stack[node] = true;
                    work.push((node, next_of(node)));
                }
                let Some((node, rest)) = work.last_mut() else { break };
                let node = *node;
                if let Some(next) = rest.pop() {
                    if index[next] == usize::MAX {
                        enter = Some(next);
                    } else if on_stack[next] {
                        low[node] = low[node].min(index[next]);
                    }
                    continue;
                }
                work.pop();
                if let Some((parent, _)) = work.last() {
                    low[*parent] = low[*parent].min(low[node]);
                }
                if low[node] == index[node] {
                    let mut group = Vec::new();
                    while let Some(member) = stack.pop() {
                        on_stack[member] = false;
                        group.push(member);
                        if member == node {
                            break;
                        }
                    }
                    groups.push(group);
                }
            }
        }
        groups
    }

    /// The circle in words; moments are passed over.
    fn tell(&self, circle: &[(usize, Edge)], history: &[ListTransaction]) -> String {
        let lines: Vec<String> = circle
            .iter()
            .filter(|(node, _)| *node < self.transactions)
            .map(|(node, edge)| format!("{} -{}->", history[*node], edge.words()))
            .collect();
        format!("{} the first", lines.join(" "))
    }
}

/// Where a search is, and whether it came there over an rw edge.
type Place = (usize, bool);

/// The way to a place, from the beginning of the search on.
fn unwind(
    end: Place,
    begin: Place,
    came_from: &BTreeMap<Place, (Place, Edge)>,
) -> Vec<(usize, Edge)> {
    let mut way = Vec::new();
    let mut place = end;
    while place != begin {
        let (before, edge) = came_from[&place];
        way.push((before.0, edge));
        place = before;
    }
    way.reverse();
    way
}

#[cfg(test)]
mod tests;
