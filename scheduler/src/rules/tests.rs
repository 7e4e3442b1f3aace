//! Rules: which count where, and which sets are refused.

use super::*;

fn rule(text: &str) -> Rule {
    serde_json::from_str(text).unwrap()
}

fn voters(group: &str, id: &str, count: usize) -> Rule {
    rule(&format!(r#"{{"group_id": "{group}", "id": "{id}", "role": "voter", "count": {count}}}"#))
}

fn edited(edits: impl IntoIterator<Item = Edit>) -> Result<Arc<Rules>, String> {
    Rules::written(RuleSet::of_policy(&Policy::default()).edited(edits))
}

fn names(rules: &[Rule]) -> Vec<String> {
    rules.iter().map(Rule::name).collect()
}

fn range(start: &'static str, end: &'static str) -> KeyRange {
    KeyRange::from_wire(start, end)
}

#[test]
fn until_somebody_writes_rules_there_is_one_made_of_the_policy() {
    let policy = Policy {
        max_replicas: 5,
        location_labels: vec!["zone".into()],
        isolation_level: "zone".into(),
        ..Policy::default()
    };
    let rules = Rules::of_policy(&policy);
    assert!(rules.is_derived());
    let [rule] = rules.of(&KeyRange::all()).unwrap() else { panic!("one rule") };
    assert_eq!((rule.name().as_str(), rule.count, rule.role), ("pd/default", 5, Role::Voter));
    assert_eq!(rule.isolated_by(), ["zone"]);
}

#[test]
fn regions_get_the_rules_of_their_segment_and_none_over_a_bound() {
    let half = Rule { start_key: "m".into(), end_key: "t".into(), ..voters("x", "extra", 1) };
    let rules = edited([Edit::Put(half)]).unwrap();
    assert_eq!(names(rules.of(&range("", "m")).unwrap()), ["pd/default"]);
    assert_eq!(names(rules.of(&range("m", "t")).unwrap()), ["pd/default", "x/extra"]);
    assert_eq!(names(rules.of(&range("n", "p")).unwrap()), ["pd/default", "x/extra"]);
    assert_eq!(names(rules.of(&range("t", "")).unwrap()), ["pd/default"]);
    assert_eq!(rules.of(&range("a", "n")), None);
    assert_eq!(rules.of(&KeyRange::all()), None);
    assert_eq!(rules.bounds_within(&KeyRange::all()), ["m", "t"]);
    assert_eq!(rules.bounds_within(&range("a", "t")), ["m"]);
    assert!(rules.bounds_within(&range("m", "t")).is_empty());
    assert_eq!(names(rules.of_key(b"s")), ["pd/default", "x/extra"]);
}

#[test]
fn a_bound_behind_which_nothing_differs_splits_nothing() {
    let part = |id, start: &'static str, end: &'static str| {
        let whole = voters("pd", id, 1);
        Edit::Put(Rule { start_key: start.into(), end_key: end.into(), overrides: true, ..whole })
    };
    let everything = Edit::Put(Rule { index: 9, overrides: true, ..voters("pd", "z", 3) });
    let rules = edited([part("a", "", "m"), part("b", "m", ""), everything]).unwrap();
    assert!(rules.bounds_within(&KeyRange::all()).is_empty(), "z does away with both");
}

#[test]
fn rules_and_groups_override_what_comes_before_them() {
    let later = Rule { index: 1, overrides: true, ..voters("pd", "later", 5) };
    let rules = edited([Edit::Put(later.clone())]).unwrap();
    assert_eq!(names(rules.of(&KeyRange::all()).unwrap()), ["pd/later"]);

    let above = Group { id: "above".into(), index: 1, overrides: true };
    let edits = [Edit::Put(voters("above", "only", 1)), Edit::PutGroup(above)];
    let rules = edited(edits.clone()).unwrap();
    assert_eq!(names(rules.of(&KeyRange::all()).unwrap()), ["above/only"]);
    let plain = edits.into_iter().chain([Edit::PlainGroup("above".into())]);
    let rules = edited(plain).unwrap();
    assert_eq!(
        names(rules.of(&KeyRange::all()).unwrap()),
        ["above/only", "pd/default"],
        "by name, when the indexes are the same"
    );
    let first = Rule { index: -1, ..voters("pd", "z", 1) };
    let rules = edited([Edit::Put(first)]).unwrap();
    assert_eq!(names(rules.of(&KeyRange::all()).unwrap()), ["pd/z", "pd/default"]);
}

#[test]
fn a_set_that_leaves_a_key_without_voters_is_refused_as_a_whole() {
    let delete = Edit::Delete { group: "pd".into(), id: "default".into() };
    assert!(edited([delete.clone()]).unwrap_err().contains("there is no rule"));
    let left = Rule { end_key: "m".into(), ..voters("x", "left", 3) };
    let error = edited([delete.clone(), Edit::Put(left.clone())]).unwrap_err();
    assert!(error.contains("from key m on there is no rule"), "{error}");
    let learners = Rule { role: Role::Learner, ..voters("x", "all", 3) };
    let error = edited([delete.clone(), Edit::Put(learners)]).unwrap_err();
    assert!(error.contains("no rule asks for a voter"), "{error}");
    let right = Rule { start_key: "m".into(), ..voters("x", "right", 1) };
    assert!(edited([delete, Edit::Put(left), Edit::Put(right)]).is_ok());

    let leader = |id| Edit::Put(Rule { role: Role::Leader, ..voters("x", id, 1) });
    assert!(edited([leader("a")]).is_ok());
    assert!(edited([leader("a"), leader("b")]).unwrap_err().contains("2 leaders"));
    assert!(edited([Edit::Put(voters("x", "none", 0))]).unwrap_err().contains("count"));
}

#[test]
fn edits_are_made_in_their_order_and_a_group_can_be_replaced() {
    let set = RuleSet::of_policy(&Policy::default());
    let set = set.edited([
        Edit::Put(voters("g", "a1", 1)),
        Edit::Put(voters("g", "a2", 1)),
        Edit::Put(voters("g", "b", 1)),
        Edit::DeletePrefix { group: "g".into(), prefix: "a".into() },
    ]);
    assert_eq!(set.rules_of("g").len(), 1);
    assert!(set.rule("g", "b").is_some() && set.has_group("g") && !set.has_group("h"));
    let text = r#"{"group_id": "g", "group_index": 3, "group_override": false,
        "rules": [{"group_id": "", "id": "c", "role": "voter", "count": 2}]}"#;
    let bundle: edit::Bundle = serde_json::from_str(text).unwrap();
    let set = set.edited(bundle.edits().unwrap());
    let shown = edit::Bundle::of(&set, "g");
    assert_eq!((shown.index, shown.rules.len(), shown.rules[0].id.as_str()), (3, 1, "c"));
    assert_eq!(set.groups().iter().map(|group| group.id.as_str()).collect::<Vec<_>>(), ["pd", "g"]);
    let foreign = edit::Bundle { id: "h".into(), ..shown };
    assert!(foreign.edits().unwrap_err().contains("not of group h"));
    assert!(set.edited([Edit::DeleteGroup("g".into())]).rules_of("g").is_empty());
}

#[test]
fn a_set_comes_back_from_its_json() {
    let group = Group { id: "g".into(), index: -2, overrides: true };
    let half = Rule { start_key: "m".into(), ..voters("g", "r", 1) };
    let rules = edited([Edit::Put(half), Edit::PutGroup(group)]).unwrap();
    let read = RuleSet::from_json(&rules.set().to_json()).unwrap();
    assert_eq!(Rules::written(read).unwrap(), rules);
    assert!(RuleSet::from_json(b"{").is_err());
}
