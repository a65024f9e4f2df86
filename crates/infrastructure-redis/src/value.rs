//! An answer as it lies in a bucket: its field is the claim's mac, its value everything else in few bytes, so that Redis keeps the bucket packed.
//!
//! A value is: a byte of code (low four bits) and flags · the claims offset · the time (ms since the epoch) · the round · the slot's eight bytes, if it has
//! one · rank, issue number, and the how-manieth of its user, each plus one, 0 for none · of the claim that won, if it names one: round, slot's eight bytes if it
//! has one, mac. Numbers are LEB128; the offset of a deferral alone is eight bytes, the highest first, so that the script can compare it.

use coupon_domain::{ClaimAnswer, ClaimCode, ClaimId, CouponId, Offset, Round, Slot, Timestamp};

const HAS_SLOT: u8 = 0x10;
const HAS_WINNER: u8 = 0x20;
const WINNER_HAS_SLOT: u8 = 0x40;
const DEFERRAL: u8 = 0x80;
const CODE: u8 = 0x0f;

const CODES: [ClaimCode; 7] = [
    ClaimCode::Granted,
    ClaimCode::SoldOut,
    ClaimCode::AlreadyIssued,
    ClaimCode::Closed,
    ClaimCode::NotOpen,
    ClaimCode::Paused,
    ClaimCode::UnknownCoupon,
];

/// True where the value says that it may change.
pub(crate) fn is_deferral(answer: &ClaimAnswer) -> bool {
    !answer.is_final
}

pub(crate) fn encode(answer: &ClaimAnswer) -> Vec<u8> {
    let code = CODES.iter().position(|code| *code == answer.code).unwrap_or(usize::from(CODE));
    let mut flags = u8::try_from(code).unwrap_or(CODE);
    let winner = answer.granted_claim_id;
    for (flag, holds) in [
        (HAS_SLOT, answer.claim_id.slot != Slot::ONLY),
        (HAS_WINNER, winner.is_some()),
        (WINNER_HAS_SLOT, winner.is_some_and(|winner| winner.slot != Slot::ONLY)),
        (DEFERRAL, is_deferral(answer)),
    ] {
        if holds {
            flags |= flag;
        }
    }
    let mut value = Vec::with_capacity(64);
    value.push(flags);
    let offset = answer.decided_offset.number().cast_unsigned();
    if is_deferral(answer) {
        value.extend(offset.to_be_bytes());
    } else {
        write_number(offset, &mut value);
    }
    write_number(answer.decided_at.ms().cast_unsigned(), &mut value);
    write_claim(&answer.claim_id, &mut value);
    let nth = answer.user_nth.map(u32::from);
    for number in [answer.rank, answer.issue_no, nth] {
        write_number(number.map_or(0, |number| u64::from(number) + 1), &mut value);
    }
    if let Some(winner) = winner {
        write_claim(&winner, &mut value);
        value.extend(winner.mac);
    }
    value
}

/// None where somebody else wrote it: it is as good as absent.
pub(crate) fn decode(coupon_id: CouponId, field: &[u8], value: &[u8]) -> Option<ClaimAnswer> {
    let mut rest = Rest(value);
    let flags = rest.byte()?;
    let has = |flag| flags & flag != 0;
    let code = *CODES.get(usize::from(flags & CODE))?;
    let offset = if has(DEFERRAL) { u64::from_be_bytes(rest.array()?) } else { rest.number()? };
    let decided_at = rest.number()?;
    let (round, slot) = rest.claim(has(HAS_SLOT))?;
    let mut counts = [None; 3];
    for count in &mut counts {
        *count = rest.number()?.checked_sub(1);
    }
    let [rank, issue_no, user_nth] = counts;
    let granted_claim_id = match (has(HAS_WINNER), has(WINNER_HAS_SLOT)) {
        (true, has_slot) => {
            let (round, slot) = rest.claim(has_slot)?;
            Some(ClaimId { coupon_id, round, slot, mac: rest.array()? })
        }
        (false, true) => return None,
        (false, false) => None,
    };
    if !rest.0.is_empty() {
        return None;
    }
    Some(ClaimAnswer {
        claim_id: ClaimId { coupon_id, round, slot, mac: field.try_into().ok()? },
        code,
        is_final: !has(DEFERRAL),
        decided_offset: Offset::new(offset.try_into().ok()?).ok()?,
        decided_at: Timestamp::from_ms(decided_at.try_into().ok()?).ok()?,
        issue_no: issue_no.map(u32::try_from).transpose().ok()?,
        user_nth: user_nth.map(u16::try_from).transpose().ok()?,
        rank: rank.map(u32::try_from).transpose().ok()?,
        granted_claim_id,
    })
}

fn write_number(mut number: u64, value: &mut Vec<u8>) {
    while number >= 0x80 {
        let [low, ..] = number.to_le_bytes();
        value.push(low | 0x80);
        number >>= 7;
    }
    let [low, ..] = number.to_le_bytes();
    value.push(low);
}

/// Everything of a claim id but the coupon and the mac.
fn write_claim(claim_id: &ClaimId, value: &mut Vec<u8>) {
    value.push(claim_id.round.number());
    if claim_id.slot != Slot::ONLY {
        value.extend(claim_id.slot.0.to_be_bytes());
    }
}

/// What of a value is not read yet.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if (bits << shift) >> shift != bits {
                return None;
            }
            number |= bits << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn claim(&mut self, has_slot: bool) -> Option<(Round, Slot)> {
        let round = Round::new(self.byte()?).ok()?;
        let slot = if has_slot { Slot(u64::from_be_bytes(self.array()?)) } else { Slot::ONLY };
        Some((round, slot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(slot: u64, mac: u8) -> ClaimId {
        let coupon_id = format!("c0-{}", "1".repeat(32)).parse().unwrap();
        ClaimId { coupon_id, round: Round::new(31).unwrap(), slot: Slot(slot), mac: [mac; 16] }
    }

    fn answers() -> Vec<ClaimAnswer> {
        let deferral = ClaimAnswer {
            claim_id: claim(0, 2),
            code: ClaimCode::Paused,
            is_final: false,
            decided_offset: Offset::new(12).unwrap(),
            decided_at: Timestamp::from_ms(5).unwrap(),
            issue_no: None,
            user_nth: None,
            rank: None,
            granted_claim_id: None,
        };
        let granted = ClaimAnswer {
            code: ClaimCode::Granted,
            is_final: true,
            issue_no: Some(u32::MAX),
            user_nth: Some(u16::MAX),
            rank: Some(4),
            ..deferral
        };
        let refused = ClaimAnswer {
            claim_id: claim(9, 3),
            code: ClaimCode::AlreadyIssued,
            is_final: true,
            decided_offset: Offset::new(1 << 40).unwrap(),
            rank: Some(u32::MAX),
            decided_at: Timestamp::from_ms(1_790_000_000_000).unwrap(),
            granted_claim_id: Some(claim(u64::MAX, 4)),
            ..deferral
        };
        let closed = ClaimAnswer { code: ClaimCode::Closed, is_final: true, ..deferral };
        vec![deferral, granted, refused, closed, ClaimAnswer { is_final: false, ..closed }]
    }

    #[test]
    fn answers_read_back_and_stay_small_enough_to_be_packed() {
        for answer in answers() {
            let (coupon_id, field, value) = (answer.claim_id.coupon_id, answer.claim_id.mac, encode(&answer));
            assert!(value.len() <= 64, "{} bytes", value.len());
            assert_eq!(decode(coupon_id, &field, &value), Some(answer));
            assert_eq!(value[0] >= 128, !answer.is_final, "the script knows deferrals by the first bit");
            for torn in 0..value.len() {
                assert_eq!(decode(coupon_id, &field, &value[..torn]), None);
            }
            assert_eq!(decode(coupon_id, &field, &[value.as_slice(), &[0]].concat()), None);
            assert_eq!(decode(coupon_id, &field[1..], &value), None);
        }
    }

    #[test]
    fn what_nobody_of_us_wrote_is_no_answer() {
        let coupon_id = claim(0, 0).coupon_id;
        for wrong in [b"".as_slice(), b"x", b"nonsense", &[0x0f; 20], &[0xff; 40], &[0x41, 1, 1, 0, 0, 0, 0]]
        {
            assert_eq!(decode(coupon_id, &[1; 16], wrong), None, "{wrong:?}");
        }
    }
}
