//! How a member comes into its group: founding, joining, or coming back.
//!
//! ```text
//!                      data there?            no data there
//!                ┌─────────┴─────────┐        ┌─────┴──────────────┐
//!             complete           "joining"  join given     initial-cluster, or alone
//!                │                   │        │                    │
//!             come back       ask once more  ask a member   found, with everybody named
//! ```
//!
//! - *Founding*: every member is started with the same `initial-cluster` and computes the same
//!   ids and the same first state from it; the group's id is a digest of the list.
//! - *Joining*: the new member chooses its id, writes it down, and asks to be let in as a learner;
//!   asking again after a crash is the same question. The leader gives it a vote once its log has
//!   caught up, so a member that never comes up costs no quorum.
//! - *Coming back*: what is on disk counts; the flags name addresses only, and may have changed.
//!
//! With `join` given there are six outcomes:
//!
//! | data here | member of that name | |
//! |---|---|---|
//! | | (`join` names this member itself) | refused |
//! | yes | this one | it comes back; `join` is not looked at |
//! | yes | none: it was removed while it was away | refused, once a member says so ([`is_removed`]) |
//! | no | none, and there never was | let in |
//! | no | none: it was removed, and its data cleared | let in, as a new member |
//! | no | there is one: it has lost its data | refused: it must be removed first, then it may join again |
//!
//! Other mistakes that are named: a peer URL that a member has already; both `join` and `initial-cluster`; data
//! of another member; nobody there. Data of another cluster is noticed when the others are asked.

use proto::schedulerpb::{Identity, Member};

use super::machine::State;

/// What a member does first.
#[derive(Clone, Debug, PartialEq)]
pub enum Beginning {
    /// Write this identity and the founding state, then run.
    Found {
        /// Who this member is.
        identity: Identity,
        /// Everybody, this member included.
        members: Vec<Member>,
    },
    /// Write this identity, ask to be let in, then run with an empty log.
    Join {
        /// Who this member will be.
        identity: Identity,
    },
    /// Run with what is on disk.
    ComeBack {
        /// Who this member is.
        identity: Identity,
    },
}

/// What the flags say about this member and its group.
#[derive(Clone, Copy, Debug)]
pub struct Flags<'a> {
    /// This member's name.
    pub name: &'a str,
    /// Where others reach it.
    pub peer_urls: &'a [String],
    /// Where clients reach it.
    pub client_urls: &'a [String],
    /// Names and peer URLs of all founding members; empty is this member alone.
    pub initial_cluster: &'a [(String, String)],
    /// Client URLs of a running cluster to join; empty is not to join.
    pub join: &'a [String],
}

/// Decides how to begin. The error is for a human.
///
/// `random` becomes the id of a member that joins.
pub fn begin(
    flags: Flags<'_>,
    on_disk: Option<Identity>,
    random: u64,
) -> Result<Beginning, String> {
    if !flags.join.is_empty() && !flags.initial_cluster.is_empty() {
        return Err(
            "join and initial-cluster exclude each other: a member either founds a cluster \
                    or joins a running one"
                .into(),
        );
    }
    if let Some(identity) = on_disk {
        if identity.name != flags.name {
            return Err(format!(
                "the data belongs to member {:?}, but this one is named {:?}",
                identity.name, flags.name
            ));
        }
        return Ok(match identity.joining {
            true if flags.join.is_empty() => {
                return Err("the data is of a member that was never let in: start it again with \
                            join"
                    .into());
            }
            true => {
                refuse_joining_itself(flags)?;
                Beginning::Join { identity }
            }
            false => Beginning::ComeBack { identity },
        });
    }
    if !flags.join.is_empty() {
        refuse_joining_itself(flags)?;
        let identity = Identity {
            group_id: 0,
            member_id: random.max(1),
            name: flags.name.into(),
            joining: true,
        };
        return Ok(Beginning::Join { identity });
    }
    found(flags)
}

fn refuse_joining_itself(flags: Flags<'_>) -> Result<(), String> {
    match flags.join.iter().find(|url| flags.client_urls.contains(url)) {
        Some(url) => Err(format!("join names this member itself ({url})")),
        None => Ok(()),
    }
}

fn found(flags: Flags<'_>) -> Result<Beginning, String> {
    let own_url = flags.peer_urls.first().ok_or("a member needs a peer URL")?;
    let mut cluster = flags.initial_cluster.to_vec();
    if cluster.is_empty() {
        cluster.push((flags.name.into(), own_url.clone()));
    }
    cluster.sort();
    if let Some(pair) = cluster.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(format!("initial-cluster names {:?} twice", pair[0].0));
    }
    match cluster.iter().find(|(name, _)| name == flags.name) {
        None => return Err(format!("initial-cluster does not name this member, {:?}", flags.name)),
        Some((_, url)) if !flags.peer_urls.contains(url) => {
            return Err(format!(
                "initial-cluster says that {:?} is at {url}, but this member advertises {}",
                flags.name,
                flags.peer_urls.join(",")
            ));
        }
        Some(_) => {}
    }
    let members: Vec<Member> = cluster
        .iter()
        .map(|(name, url)| Member {
            member_id: digest([name.as_str(), url.as_str()]),
            name: name.clone(),
            peer_urls: vec![url.clone()],
            client_urls: Vec::new(),
            is_learner: false,
            leader_priority: 0,
        })
        .collect();
    let group_id = digest(cluster.iter().flat_map(|(name, url)| [name.as_str(), url.as_str()]));
    let member_id = members
        .iter()
        .find(|member| member.name == flags.name)
        .map(|member| member.member_id)
        .ok_or("initial-cluster does not name this member")?;
    let identity = Identity { group_id, member_id, name: flags.name.into(), joining: false };
    Ok(Beginning::Found { identity, members })
}

/// Whether the leader may let this member in; `Ok(true)` when it is in already. The error is for
/// the one who asks.
pub fn may_join<'a>(
    asking: &Member,
    members: impl IntoIterator<Item = &'a Member>,
) -> Result<bool, String> {
    if asking.member_id == 0 || asking.name.is_empty() || asking.peer_urls.is_empty() {
        return Err("a member that joins needs an id, a name and a peer URL".into());
    }
    for member in members {
        if member.member_id == asking.member_id {
            return Ok(true);
        }
        if member.name == asking.name {
            return Err(format!(
                "there is a member named {:?} already; its data is missing here, or the name is \
                 taken: remove that member before this one joins",
                asking.name
            ));
        }
        if let Some(url) = asking.peer_urls.iter().find(|url| member.peer_urls.contains(url)) {
            return Err(format!("member {:?} is at {url} already", member.name));
        }
    }
    Ok(false)
}

/// Whether a member has been removed, by what another says: its members as of the log entry `index`. Only one
/// that knows as much as the member's own data can tell removal from not having heard of it yet.
pub fn is_removed(member_id: u64, own: &State, index: u64, members: &[Member]) -> bool {
    own.members().contains_key(&member_id)
        && index >= own.index()
        && !members.iter().any(|member| member.member_id == member_id)
}

/// A number for a list of texts (FNV-1a, 64 bits), never 0. Not a secret, only unlikely to repeat.
fn digest<'a>(texts: impl IntoIterator<Item = &'a str>) -> u64 {
    let bytes = texts.into_iter().flat_map(|text| text.bytes().chain([0]));
    bytes
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
        .max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANDOM: u64 = 77;

    struct Written {
        name: &'static str,
        initial_cluster: Vec<(String, String)>,
        join: Vec<String>,
    }

    fn flags(name: &'static str, initial_cluster: &[(&str, &str)], join: &[&str]) -> Written {
        Written {
            name,
            initial_cluster: initial_cluster
                .iter()
                .map(|(name, url)| ((*name).into(), (*url).into()))
                .collect(),
            join: join.iter().map(|url| (*url).into()).collect(),
        }
    }

    fn began(written: &Written, on_disk: Option<Identity>) -> Result<Beginning, String> {
        let peer_urls = [format!("http://{}:2380", written.name)];
        let client_urls = [format!("http://{}:2379", written.name)];
        begin(
            Flags {
                name: written.name,
                peer_urls: &peer_urls,
                client_urls: &client_urls,
                initial_cluster: &written.initial_cluster,
                join: &written.join,
            },
            on_disk,
            RANDOM,
        )
    }

    fn identity(name: &str, joining: bool) -> Identity {
        Identity { group_id: 5, member_id: 6, name: name.into(), joining }
    }

    #[test]
    fn founders_with_the_same_list_agree_on_everything_but_who_they_are() {
        let forward = [("a", "http://a:2380"), ("b", "http://b:2380")];
        let backward = [forward[1], forward[0]];
        let Ok(Beginning::Found { identity: a, members: seen_by_a }) =
            began(&flags("a", &forward, &[]), None)
        else {
            panic!("a founds");
        };
        let Ok(Beginning::Found { identity: b, members: seen_by_b }) =
            began(&flags("b", &backward, &[]), None)
        else {
            panic!("b founds");
        };
        assert_eq!(seen_by_a, seen_by_b);
        assert_eq!(a.group_id, b.group_id);
        assert_ne!(a.member_id, b.member_id);
    }

    #[test]
    fn a_member_without_flags_founds_a_cluster_of_its_own() {
        let Ok(Beginning::Found { members, .. }) = began(&flags("a", &[], &[]), None) else {
            panic!("it founds");
        };
        assert_eq!(members.len(), 1);
        assert_eq!(members[0].peer_urls, ["http://a:2380"]);
    }

    #[test]
    fn what_is_on_disk_counts_more_than_the_flags() {
        let complete = Some(identity("a", false));
        let expected = Ok(Beginning::ComeBack { identity: identity("a", false) });
        assert_eq!(began(&flags("a", &[], &["http://b:2379"]), complete.clone()), expected);
        assert_eq!(began(&flags("a", &[("x", "http://x")], &[]), complete), expected);
    }

    #[test]
    fn a_join_that_crashed_half_way_asks_again_under_the_same_id() {
        let half = Some(identity("a", true));
        assert_eq!(
            began(&flags("a", &[], &["http://b:2379"]), half.clone()),
            Ok(Beginning::Join { identity: identity("a", true) })
        );
        assert!(began(&flags("a", &[], &[]), half).unwrap_err().contains("never let in"));
    }

    #[test]
    fn mistakes_in_the_flags_are_named() {
        let cases: [(Written, Option<Identity>, &str); 6] = [
            (flags("a", &[("a", "http://a:2380")], &["http://b:2379"]), None, "exclude each other"),
            (flags("a", &[], &["http://a:2379"]), None, "itself"),
            (flags("a", &[("b", "http://b:2380")], &[]), None, "does not name this member"),
            (flags("a", &[("a", "http://other:2380")], &[]), None, "advertises"),
            (flags("a", &[("a", "http://a:2380"), ("a", "http://x")], &[]), None, "twice"),
            (flags("a", &[], &[]), Some(identity("b", false)), "belongs to member"),
        ];
        for (written, on_disk, expected) in cases {
            let error = began(&written, on_disk).unwrap_err();
            assert!(error.contains(expected), "{error:?} should say {expected:?}");
        }
    }

    /// S1.4: what becomes of a member that is started with `join`.
    #[test]
    fn the_six_outcomes_of_joining() {
        let join = ["http://a:2379"];
        let asking = |member_id| Member {
            member_id,
            name: "c".into(),
            peer_urls: vec!["http://c:2380".into()],
            ..Default::default()
        };
        let founder = Member {
            member_id: 1,
            name: "a".into(),
            peer_urls: vec!["http://a:2380".into()],
            ..Default::default()
        };
        // 1: it names itself.
        let itself = began(&flags("c", &[], &["http://a:2379", "http://c:2379"]), None);
        assert!(itself.unwrap_err().contains("itself"));
        // 2: it has data, so it comes back.
        let back = began(&flags("c", &[], &join), Some(identity("c", false)));
        assert_eq!(back, Ok(Beginning::ComeBack { identity: identity("c", false) }));
        // 3: it has data, but was removed. One that knows less than its data cannot say so.
        let own = State::founding([founder.clone(), asking(6)], 7, 1);
        assert!(is_removed(6, &own, 7, std::slice::from_ref(&founder)));
        assert!(!is_removed(6, &own, 6, std::slice::from_ref(&founder)));
        assert!(!is_removed(6, &own, 9, &[founder.clone(), asking(6)]));
        assert!(!is_removed(6, &State::default(), 9, std::slice::from_ref(&founder)));
        // 4 and 5: no data and no member of its name, whether there never was or was removed.
        let begun = began(&flags("c", &[], &join), None);
        assert!(matches!(begun, Ok(Beginning::Join { identity }) if identity.member_id == RANDOM));
        assert_eq!(may_join(&asking(RANDOM), [&founder]), Ok(false));
        // 6: no data, and there is a member of its name.
        let failed = asking(6);
        let refused = may_join(&asking(RANDOM), [&founder, &failed]).unwrap_err();
        assert!(refused.contains("its data is missing") && refused.contains("remove"), "{refused}");
    }

    #[test]
    fn a_new_member_is_let_in_once_and_never_over_another() {
        let member = |member_id, name: &str, url: &str| Member {
            member_id,
            name: name.into(),
            peer_urls: vec![url.into()],
            ..Default::default()
        };
        let members = [member(1, "a", "http://a:2380"), member(2, "b", "http://b:2380")];
        assert_eq!(may_join(&member(3, "c", "http://c:2380"), &members), Ok(false));
        assert_eq!(may_join(&member(2, "b", "http://b:2380"), &members), Ok(true));
        assert!(
            may_join(&member(3, "b", "http://c:2380"), &members).unwrap_err().contains("named")
        );
        assert!(
            may_join(&member(3, "c", "http://a:2380"), &members).unwrap_err().contains("is at")
        );
        assert!(may_join(&member(0, "c", "http://c:2380"), &members).is_err());
    }
}
