//! How packets are refused: counted, told, and dropped or answered.

use headgate_config::model::{Farm, LimitAction, LogEvent, OnEmpty};
use headgate_nft::{Object, ObjectKind, Reject, Rule, Statement, Verdict};

use super::contents::Contents;
use super::guard::Post;
use super::terms::{is_tcp, rule};
use crate::features::Feature;
use crate::logged::{Logged, Reason};
use crate::maps::Place;
use crate::names;

/// What new flows meet when nobody can serve. Established ones do not come here: a nat hook sees first packets only, where
/// the kernel takes reject as well (`nft_reject_inet_validate`).
pub(super) fn empty(contents: &mut Contents, farm: &Farm, post: Post<'_>) -> Vec<Rule> {
    let action = match farm.on_empty {
        OnEmpty::Reject => possible(contents, farm, post, LimitAction::Reject),
        OnEmpty::Drop => LimitAction::Drop,
    };
    let told = tell(contents, farm, post, (Reason::Empty, action));
    told.into_iter().chain(answer(action)).collect()
}

/// Whether a farm's new flows meet the same when they come to the end of the nat hooks without a backend.
pub(super) fn is_left_to_hooks(contents: &mut Contents, farm: &Farm, post: Post<'_>) -> bool {
    farm.on_empty == OnEmpty::Reject && tell(contents, farm, post, (Reason::Empty, LimitAction::Reject)).is_none()
}

/// Counts, tells and refuses. Both families count in one object.
pub(super) fn counted(
    contents: &mut Contents,
    farm: &Farm,
    post: Post<'_>,
    (reason, action): (Reason, LimitAction),
) -> Vec<Rule> {
    let action = possible(contents, farm, post, action);
    let name = names::refused_counter(&farm.name, reason.word());
    contents.add_object(post.place, (ObjectKind::Counter, name.clone()), Object::Counter);
    let mut rules = vec![rule([Statement::Object { kind: ObjectKind::Counter, name }])];
    rules.extend(tell(contents, farm, post, (reason, action)));
    rules.extend(answer(action));
    rules
}

/// A kernel that cannot reject there refuses the whole transaction: better no answer than no change.
fn possible(contents: &mut Contents, farm: &Farm, post: Post<'_>, action: LimitAction) -> LimitAction {
    let rejects = action == LimitAction::Reject && post.place != Place::Inet;
    match rejects && !post.ground.has(Feature::RejectAtIngress, contents, farm) {
        true => LimitAction::Drop,
        false => action,
    }
}

/// A rule of its own: above its rate it ends, and the next one refuses all the same.
fn tell(contents: &mut Contents, farm: &Farm, post: Post<'_>, (reason, action): (Reason, LimitAction)) -> Option<Rule> {
    let only_counts = action == LimitAction::Log;
    let wanted = only_counts || farm.log.contains(&LogEvent::Denied);
    if !wanted || !post.ground.has(Feature::Log, contents, farm) {
        return None;
    }
    let id = post.ground.ids.farm(&farm.name)?;
    let logged = if only_counts { Logged::Over(id, reason) } else { Logged::Denied(id, reason) };
    Some(rule(logged.statements()))
}

/// TCP gets a reset, everything else an ICMP error; or nobody says anything.
pub(super) fn answer(action: LimitAction) -> Vec<Rule> {
    match action {
        LimitAction::Drop => vec![rule([Statement::Verdict(Verdict::Drop)])],
        LimitAction::Reject => {
            vec![
                rule([is_tcp(), Statement::Reject(Reject::TcpReset)]),
                rule([Statement::Reject(Reject::PortUnreachable)]),
            ]
        }
        LimitAction::Log => Vec::new(),
    }
}
