//! The token of one claim's event stream, given with the 202: browsers' `EventSource` sends no headers, so it travels in
//! the query. It opens this claim's answer and nothing else, and ends soon.

use std::fmt;
use std::str::FromStr;

use crate::claim_id::{ClaimId, parse_mac, write_hex};
use crate::keys::{Key, KeyRing};
use crate::position::Offset;
use crate::timestamp::Timestamp;

/// `<ticket offset or ->.<expiry in ms>.<mac>`. It carries the ticket's offset: a deferral from before it is no answer to
/// this press of the button.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamToken {
    /// Where the claim was appended, where the broker said so.
    pub ticket_offset: Option<Offset>,
    /// From this moment on the token opens nothing.
    pub expires_at: Timestamp,
    mac: [u8; 16],
}

/// Why a token opens nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StreamTokenRefused {
    /// Not the spelling of a token.
    #[error("the stream token is malformed")]
    Malformed,
    /// Made for another claim, or by a key we do not hold.
    #[error("the stream token does not belong to this claim")]
    OtherClaim,
    /// Its time is over.
    #[error("the stream token has expired; ask for the claim with the bearer token")]
    Expired,
}

impl StreamToken {
    /// A token for this claim, valid until `expires_at`.
    #[must_use]
    pub fn issue(
        key: &Key,
        claim_id: &ClaimId,
        ticket_offset: Option<Offset>,
        expires_at: Timestamp,
    ) -> Self {
        Self { ticket_offset, expires_at, mac: mac(key, claim_id, ticket_offset, expires_at) }
    }

    /// Checks that the token was made for this claim by one of our keys and has not expired at `now`.
    ///
    /// # Errors
    /// [`StreamTokenRefused::OtherClaim`] or [`StreamTokenRefused::Expired`].
    pub fn verify(
        &self,
        keys: &KeyRing,
        claim_id: &ClaimId,
        now: Timestamp,
    ) -> Result<(), StreamTokenRefused> {
        let ours = keys.iter().any(|(_, key)| {
            let expected = mac(key, claim_id, self.ticket_offset, self.expires_at);
            bool::from(subtle::ConstantTimeEq::ct_eq(&expected[..], &self.mac[..]))
        });
        if !ours {
            return Err(StreamTokenRefused::OtherClaim);
        }
        if now >= self.expires_at { Err(StreamTokenRefused::Expired) } else { Ok(()) }
    }
}

fn mac(key: &Key, claim_id: &ClaimId, ticket_offset: Option<Offset>, expires_at: Timestamp) -> [u8; 16] {
    let ticket = ticket_offset.map_or(-1, Offset::number);
    key.stream_token_mac(&[&claim_id.mac, &ticket.to_be_bytes(), &expires_at.ms().to_be_bytes()])
}

impl fmt::Display for StreamToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ticket_offset {
            Some(offset) => write!(f, "{offset}.")?,
            None => f.write_str("-.")?,
        }
        let mut text = smallvec::SmallVec::new();
        write_hex(&self.mac, &mut text);
        write!(f, "{}.{}", self.expires_at.ms(), std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl FromStr for StreamToken {
    type Err = StreamTokenRefused;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let read = || -> Option<Self> {
            let (ticket, rest) = text.split_once('.')?;
            let (expires_at, mac) = rest.split_once('.')?;
            let ticket_offset = match ticket {
                "-" => None,
                number => Some(Offset::new(number.parse().ok()?).ok()?),
            };
            let expires_at = Timestamp::from_ms(expires_at.parse().ok()?).ok()?;
            Some(Self { ticket_offset, expires_at, mac: parse_mac(mac)? })
        };
        read().ok_or(StreamTokenRefused::Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    use crate::claim_id::{Round, Slot};
    use crate::coupon_id::CouponId;
    use crate::position::Partition;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_ms(ms).unwrap()
    }

    #[test]
    fn a_token_opens_its_own_claim_until_it_expires() {
        let key = Key::from_secret(&[1; 32]).unwrap();
        let ring = KeyRing::new([("k1".parse().unwrap(), key.clone())].into());
        let coupon = CouponId::new(Partition::new(0).unwrap(), Uuid::from_u128(1));
        let claim = |name: &str| key.claim_id(coupon, &name.parse().unwrap(), Round::FIRST, Slot::ONLY);
        for ticket in [None, Some(Offset::new(42).unwrap())] {
            let token = StreamToken::issue(&key, &claim("ann"), ticket, at(1000));
            let read: StreamToken = token.to_string().parse().unwrap();
            assert_eq!(read, token);
            assert_eq!(read.verify(&ring, &claim("ann"), at(999)), Ok(()));
            assert_eq!(read.verify(&ring, &claim("ann"), at(1000)), Err(StreamTokenRefused::Expired));
            assert_eq!(read.verify(&ring, &claim("bob"), at(0)), Err(StreamTokenRefused::OtherClaim));
            let stretched = StreamToken { expires_at: at(2000), ..read };
            assert_eq!(stretched.verify(&ring, &claim("ann"), at(0)), Err(StreamTokenRefused::OtherClaim));
            let moved = StreamToken { ticket_offset: Some(Offset::ZERO), ..read };
            assert_eq!(moved.verify(&ring, &claim("ann"), at(0)), Err(StreamTokenRefused::OtherClaim));
        }
        for wrong in ["", "1.2", "a.1.00", "-1.5.00000000000000000000000000000000"] {
            assert_eq!(wrong.parse::<StreamToken>(), Err(StreamTokenRefused::Malformed), "{wrong:?}");
        }
    }
}
