//! What stands under a claim's key: `F` and the answer as JSON for final ones, `D`, the offset and the answer for deferrals. The
//! letter lets the script see at once what must never be overwritten.

use coupon_domain::ClaimAnswer;

pub(crate) fn encode(answer: &ClaimAnswer) -> Vec<u8> {
    let mut value = mark(answer);
    if let Err(error) = serde_json::to_writer(&mut value, answer) {
        unreachable!("answers have string keys and no failing parts: {error}");
    }
    value
}

/// What stands before the answer.
fn mark(answer: &ClaimAnswer) -> Vec<u8> {
    if answer.is_final { b"F".to_vec() } else { format!("D{}", answer.decided_offset).into_bytes() }
}

/// The answer, if the mark before it is the answer's own.
pub(crate) fn decode_marked(value: &[u8]) -> Option<ClaimAnswer> {
    decode(value).filter(|answer| value.split(|byte| *byte == b'{').next() == Some(mark(answer).as_slice()))
}

/// None where somebody else wrote the value: it is as good as absent.
pub(crate) fn decode(value: &[u8]) -> Option<ClaimAnswer> {
    let start = value.iter().position(|byte| *byte == b'{')?;
    serde_json::from_slice(value.get(start..)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use coupon_domain::{ClaimCode, Offset, Timestamp};

    #[test]
    fn answers_read_back_and_show_whether_they_are_final() {
        let claim_id = format!("c0-{}.0.0.{}", "1".repeat(32), "2".repeat(32)).parse().unwrap();
        let deferral = ClaimAnswer {
            claim_id,
            code: ClaimCode::Paused,
            is_final: false,
            decided_offset: Offset::new(12).unwrap(),
            decided_at: Timestamp::from_ms(5).unwrap(),
            issue_no: None,
            user_nth: None,
            rank: None,
            granted_claim_id: None,
        };
        assert!(encode(&deferral).starts_with(b"D12{"));
        assert_eq!(decode(&encode(&deferral)), Some(deferral));
        assert_eq!(decode_marked(&encode(&deferral)), Some(deferral));
        let mismarked = [b"F".as_slice(), &encode(&deferral)[3..]].concat();
        assert_eq!((decode(&mismarked), decode_marked(&mismarked)), (Some(deferral), None));
        let granted = ClaimAnswer {
            code: ClaimCode::Granted,
            is_final: true,
            issue_no: Some(3),
            user_nth: Some(1),
            rank: Some(4),
            ..deferral
        };
        assert!(encode(&granted).starts_with(b"F{"));
        assert_eq!(decode(&encode(&granted)), Some(granted));
        assert_eq!(decode(b"x"), None);
    }
}
