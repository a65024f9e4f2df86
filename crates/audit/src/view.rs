//! The view in Redis. It is read before the logs, so it can only be behind them; what it says is compared at the moment that it says it of.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};

use coupon_domain::invariant::Invariant;
use coupon_domain::view_sync::ViewWatermark;
use coupon_domain::{ClaimAnswer, ClaimId, CouponId, CouponState, Offset, Timestamp};
use infrastructure_redis::{CouponHash, FoundAnswer, ViewMaintenance};

use crate::claims;
use crate::error::{AuditError, failed};
use crate::findings::Findings;
use crate::rows::{Key, Row, Rows, Sorted, Spill};

/// Most answers of a view that are looked for once more.
const MISSED_MAX: usize = 1_000;

/// Answers that are looked for in Redis at once.
const LOOKED_UP: usize = 1_000;

/// The view, as it was found.
pub struct View {
    hashes: BTreeMap<CouponId, Hash>,
    answers: Answers,
}

enum Answers {
    /// All of them were read before the logs, sorted by claim: they are taken as the claims of the logs are judged.
    Read { seen: Sorted, hasher: RandomState },
    /// Those that the logs give are looked up behind them.
    LookedUp(Vec<ClaimAnswer>),
}

struct Hash {
    said: CouponHash,
    /// Up to where the view was true when its answers were read, and still after that.
    vouches_to: Option<Offset>,
    /// How many final answers below that offset were not there.
    missing: u64,
    /// Some of their claims.
    missed: Vec<ClaimId>,
}

impl View {
    /// Reads the view, of coupons that are named theirs alone, by the names of its keys: the hashes, then the answers, then the hashes again, so that a view that was lost meanwhile is not blamed for gaps.
    ///
    /// # Errors
    /// [`AuditError`].
    pub async fn read(
        maintenance: &ViewMaintenance,
        spill: &Spill,
        only: &BTreeSet<CouponId>,
        findings: &mut Findings,
    ) -> Result<Self, AuditError> {
        let before = hashes(maintenance, only).await?;
        let (mut rows, hasher) = (Rows::beyond(None, spill), RandomState::new());
        let (mut unreadable, mut spilled) = (Vec::new(), Ok(()));
        let each = |found| match found {
            FoundAnswer::Read(key, answer) if key == answer.claim_id => {
                if spilled.is_ok() {
                    spilled = rows.push(row_of(&hasher, &answer));
                }
            }
            FoundAnswer::Read(key, answer) => {
                unreadable.push(format!("the answer under claim {key} is that of {}", answer.claim_id));
            }
            FoundAnswer::Unreadable(key) => unreadable.push(format!("{key} holds no answer")),
        };
        let coupons: Vec<CouponId> = before.iter().map(|(coupon_id, _)| *coupon_id).collect();
        maintenance.answers(&coupons, each).await.map_err(failed("reading Redis"))?;
        spilled?;
        for finding in unreadable {
            findings.broken(Invariant::Agree, "Redis", &finding);
        }
        let after: BTreeMap<_, _> = hashes(maintenance, only).await?.into_iter().collect();
        let mut hashes = BTreeMap::new();
        for (coupon_id, said) in before {
            // Of another push it is another view.
            let then = after.get(&coupon_id).filter(|hash| hash.push_id == said.push_id);
            let then = then.and_then(|hash| hash.watermark?.next_src());
            let vouches_to =
                said.watermark.and_then(ViewWatermark::next_src).filter(|first| then >= Some(*first));
            hashes.insert(coupon_id, Hash { said, vouches_to, missing: 0, missed: Vec::new() });
        }
        Ok(Self { hashes, answers: Answers::Read { seen: rows.sorted()?, hasher } })
    }

    /// Reads the hashes alone: answers are looked up once the logs have given them.
    ///
    /// # Errors
    /// [`AuditError`].
    pub async fn read_hashes(maintenance: &ViewMaintenance) -> Result<Self, AuditError> {
        let hashes = maintenance.coupons().await.map_err(failed("reading Redis"))?;
        let hashes = hashes.into_iter().map(|(coupon_id, said)| {
            let vouches_to = said.watermark.and_then(ViewWatermark::next_src);
            (coupon_id, Hash { said, vouches_to, missing: 0, missed: Vec::new() })
        });
        Ok(Self { hashes: hashes.collect(), answers: Answers::LookedUp(Vec::new()) })
    }

    /// Up to where the view of a coupon was true.
    pub(crate) fn vouches_to(&self, coupon_id: CouponId) -> Option<Offset> {
        self.hashes.get(&coupon_id)?.vouches_to
    }

    /// The offsets at which hashes are to be compared.
    pub(crate) fn watermarks(&self) -> impl Iterator<Item = (Offset, CouponId)> {
        self.hashes
            .iter()
            .filter_map(|(coupon_id, hash)| Some((hash.said.watermark?.next_src()?, *coupon_id)))
    }

    /// Compares a hash with the coupon as it was at the hash's watermark.
    pub(crate) fn compare_hash(
        &self,
        coupon_id: CouponId,
        state: Option<&CouponState>,
        findings: &mut Findings,
    ) {
        let Some(hash) = self.hashes.get(&coupon_id) else { return };
        let place = format!("Redis, the view of {coupon_id}");
        findings.checked(Invariant::Agree, "views", 1);
        let Some(state) = state else {
            findings.broken(Invariant::Agree, &place, "there was no such coupon at its watermark");
            return;
        };
        let compared = [
            ("remaining", &hash.said.remaining, state.remaining().to_string()),
            ("status", &hash.said.status, state.status.as_str().to_owned()),
            ("round", &hash.said.round, state.round.to_string()),
        ];
        for (name, said, wanted) in compared {
            if let Some(said) = said
                && *said != wanted
            {
                findings.broken(Invariant::Agree, &place, &format!("{name} is {said}, not {wanted}"));
            }
        }
    }

    /// What the log answered, where it is to be compared with what was read; else it is kept to be looked up.
    pub(crate) fn answered(&mut self, answer: &ClaimAnswer) -> Option<u64> {
        match &mut self.answers {
            Answers::LookedUp(given) => {
                if self.hashes.contains_key(&answer.claim_id.coupon_id) {
                    given.push(*answer);
                }
                None
            }
            Answers::Read { hasher, .. } => Some(hashed(hasher, answer)),
        }
    }

    /// What the view says of a claim. Claims are asked for in their order; what it says of those between them no record of the logs gave.
    pub(crate) fn take(&mut self, wanted: Key, strays: &mut Strays<'_>) -> Result<Option<Row>, AuditError> {
        let Answers::Read { seen, .. } = &mut self.answers else { return Ok(None) };
        let mut found = None;
        while seen.peek().is_some_and(|row| row.key <= wanted) {
            // A key may be met twice while Redis is read: the last one counts.
            match seen.next()? {
                Some(row) if row.key == wanted => found = Some(row),
                Some(row) => strays.report(&row, seen.peek()),
                None => {}
            }
        }
        Ok(found)
    }

    /// What is left of a partition: answers that no record of its line gave.
    pub(crate) fn take_rest(&mut self, partition: i32, strays: &mut Strays<'_>) -> Result<(), AuditError> {
        let Answers::Read { seen, .. } = &mut self.answers else { return Ok(()) };
        while seen.peek().is_some_and(|row| row.key.partition() <= partition) {
            if let Some(row) = seen.next()? {
                strays.report(&row, seen.peek());
            }
        }
        Ok(())
    }

    /// Compares an answer of the log with what the view says of the claim. True where it is the one that the view holds.
    pub(crate) fn compare(&mut self, answered: &Row, seen: Option<&Row>, findings: &mut Findings) -> bool {
        match seen {
            Some(seen) if seen.src == answered.src => {
                compare_said(seen.said == answered.said, &answered.claim_id(), answered.offset(), findings);
                true
            }
            _ => {
                self.misses(answered.claim_id(), answered.offset(), answered.is(claims::ANSWER_FINAL));
                false
            }
        }
    }

    /// An answer that is not there: nothing wrong unless the view vouches for it.
    fn misses(&mut self, claim_id: ClaimId, decided: Offset, is_final: bool) {
        let hash = self.hashes.get_mut(&claim_id.coupon_id).filter(|_| is_final);
        if let Some(hash) = hash.filter(|hash| hash.vouches_to > Some(decided)) {
            hash.missing += 1;
            if hash.missed.len() < MISSED_MAX {
                hash.missed.push(claim_id);
            }
        }
    }

    /// Looks up what was kept for it. Redis may be ahead of the logs by now: a later answer to the same claim says nothing here.
    pub(crate) async fn look_up(
        &mut self,
        maintenance: &ViewMaintenance,
        findings: &mut Findings,
    ) -> Result<(), AuditError> {
        let Answers::LookedUp(given) = &mut self.answers else { return Ok(()) };
        let given = std::mem::take(given);
        for some in given.chunks(LOOKED_UP) {
            let claim_ids: Vec<ClaimId> = some.iter().map(|answer| answer.claim_id).collect();
            let found = maintenance.look_up(&claim_ids).await.map_err(failed("reading Redis"))?;
            for (answer, found) in some.iter().zip(found) {
                match found {
                    Some(Ok(found)) if found.decided_offset == answer.decided_offset => {
                        compare_said(found == *answer, &answer.claim_id, answer.decided_offset, findings);
                    }
                    Some(Ok(found)) if found.decided_offset > answer.decided_offset => {}
                    Some(Err(key)) => {
                        findings.broken(Invariant::Agree, "Redis", &format!("{key} holds no answer"));
                    }
                    _ => self.misses(answer.claim_id, answer.decided_offset, answer.is_final),
                }
            }
        }
        Ok(())
    }

    /// Whether a coupon's view is whole, and where the system is at rest: whether it is there and current.
    pub(crate) fn compare_whole(
        &self,
        state: &CouponState,
        decided: Offset,
        now: Timestamp,
        findings: &mut Findings,
    ) {
        let place = format!("Redis, the view of {}", state.coupon_id);
        match self.hashes.get(&state.coupon_id) {
            // It goes by itself some time after the end.
            None if now < state.definition.window().closes_at() => {
                findings.late(Invariant::Agree, &place, "there is none");
            }
            None => {}
            Some(Hash { vouches_to: None, .. }) => {
                findings.late(Invariant::Agree, &place, "it is being pushed anew");
            }
            Some(Hash { vouches_to: Some(vouches_to), .. }) => {
                if *vouches_to > decided {
                    let finding = format!("reflects {vouches_to}, the outcomes log {decided}");
                    findings.broken(Invariant::Agree, &place, &finding);
                } else if *vouches_to < decided && now < state.definition.window().closes_at() {
                    let finding = format!("reflects {vouches_to}, the outcomes log {decided}");
                    findings.late(Invariant::Agree, &place, &finding);
                }
            }
        }
    }

    /// Looks once more for what was missing: a view that was lost while it was read may have been pushed again behind the reader's back.
    pub(crate) async fn confirm_missing(
        &self,
        maintenance: &ViewMaintenance,
        findings: &mut Findings,
    ) -> Result<(), AuditError> {
        for (coupon_id, hash) in self.hashes.iter().filter(|(_, hash)| hash.missing > 0) {
            let place = format!("Redis, the view of {coupon_id}");
            let reached = hash.vouches_to.unwrap_or(Offset::ZERO);
            match maintenance.denied(&hash.missed, reached).await.map_err(failed("reading Redis"))? {
                Some(example) => {
                    let finding = format!(
                        "{} final answers below its watermark are missing, such as that to {example}",
                        hash.missing
                    );
                    findings.broken(Invariant::Agree, &place, &finding);
                }
                None => {
                    findings.note(format!("{place}: it was lost, all or in part, or has grown meanwhile"));
                }
            }
        }
        Ok(())
    }

    /// The lowest watermark of the partition's views.
    pub(crate) fn lowest_watermark(&self, partition: i32) -> Option<Offset> {
        let of_partition =
            self.watermarks().filter(|(_, coupon_id)| coupon_id.partition().number() == partition);
        of_partition.map(|(next_src, _)| next_src).min()
    }
}

/// Answers of the view that no record of the line gave.
pub(crate) struct Strays<'a> {
    pub(crate) findings: &'a mut Findings,
    /// From where on the line proves it; none where the line was not read to its end.
    pub(crate) proven_from: Option<i64>,
}

impl Strays<'_> {
    /// One of them, unless the next one is the same again.
    pub(crate) fn report(&mut self, row: &Row, next: Option<&Row>) {
        let is_again = next.is_some_and(|next| next.key == row.key);
        if !is_again && self.proven_from.is_some_and(|proven_from| row.src >= proven_from) {
            let finding = format!("says that it was answered at {}, the log does not", row.src);
            self.findings.broken(Invariant::Agree, &format!("Redis, claim {}", row.claim_id()), &finding);
        }
    }
}

/// What the hashes of these coupons say; of all where none is named.
async fn hashes(
    maintenance: &ViewMaintenance,
    only: &BTreeSet<CouponId>,
) -> Result<Vec<(CouponId, CouponHash)>, AuditError> {
    let found = match only.is_empty() {
        true => maintenance.coupons().await,
        false => maintenance.named_coupons(only.iter().copied()).await,
    };
    found.map_err(failed("reading Redis"))
}

fn row_of(hasher: &RandomState, answer: &ClaimAnswer) -> Row {
    Row { said: hashed(hasher, answer), ..Row::of(&answer.claim_id, answer.decided_offset.number()) }
}

fn compare_said(is_same: bool, claim_id: &ClaimId, decided: Offset, findings: &mut Findings) {
    findings.checked(Invariant::Agree, "answers in Redis", 1);
    if !is_same {
        let place = format!("Redis, claim {claim_id}");
        let finding = format!("says otherwise than the log at offset {decided}");
        findings.broken(Invariant::Agree, &place, &finding);
    }
}

fn hashed(hasher: &RandomState, answer: &ClaimAnswer) -> u64 {
    hasher.hash_one(serde_json::to_vec(answer).unwrap_or_default())
}
