//! The promises, by the ids that code, tests, `couponctl audit` and the metric `coupon_invariant_violations{id}` share.

/// A promise that Firstcome makes to those who run it and to the crowd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Invariant {
    /// NO-OVERSELL
    NoOversell,
    /// ONE-EACH
    OneEach,
    /// FIRST-COME
    FirstCome,
    /// ONE-OUTCOME
    OneOutcome,
    /// DURABLE-ACK
    DurableAck,
    /// AGREE
    Agree,
    /// NAMED-DOUBT
    NamedDoubt,
    /// TOLD
    Told,
    /// ONCE-USED
    OnceUsed,
    /// OWN-ONLY
    OwnOnly,
    /// BOUNDED
    Bounded,
}

impl Invariant {
    /// All of them, in the order of the documentation.
    pub const ALL: [Self; 11] = [
        Self::NoOversell,
        Self::OneEach,
        Self::FirstCome,
        Self::OneOutcome,
        Self::DurableAck,
        Self::Agree,
        Self::NamedDoubt,
        Self::Told,
        Self::OnceUsed,
        Self::OwnOnly,
        Self::Bounded,
    ];

    /// The id.
    #[must_use]
    pub fn id(self) -> &'static str {
        match self {
            Self::NoOversell => "NO-OVERSELL",
            Self::OneEach => "ONE-EACH",
            Self::FirstCome => "FIRST-COME",
            Self::OneOutcome => "ONE-OUTCOME",
            Self::DurableAck => "DURABLE-ACK",
            Self::Agree => "AGREE",
            Self::NamedDoubt => "NAMED-DOUBT",
            Self::Told => "TOLD",
            Self::OnceUsed => "ONCE-USED",
            Self::OwnOnly => "OWN-ONLY",
            Self::Bounded => "BOUNDED",
        }
    }

    /// The promise in one sentence.
    #[must_use]
    pub fn promise(self) -> &'static str {
        match self {
            Self::NoOversell => "issued never exceeds quantity",
            Self::OneEach => "at most per_user_limit grants per user and coupon",
            Self::FirstCome => {
                "the winners are exactly the first eligible claims in log order, and no unit leaks"
            }
            Self::OneOutcome => {
                "every claim answered with 202 is answered by the log; its final outcome never changes"
            }
            Self::DurableAck => "202 is sent only after the broker acknowledged with acks=all",
            Self::Agree => {
                "claims log, outcomes log, PostgreSQL and Redis each equal the fold of a prefix, and agree when quiet"
            }
            Self::NamedDoubt => {
                "no 202 promises nothing, but whatever happened is found under the same claim id"
            }
            Self::Told => "a connected client gets its outcome; a client that asks later always gets it",
            Self::OnceUsed => "an issued coupon is redeemed at most once",
            Self::OwnOnly => "nobody reads or acts beyond their token",
            Self::Bounded => "every queue, buffer, map, wait and connection count has a named limit",
        }
    }

    /// True where stored data alone can prove or break the promise; the others are shown by tests only.
    #[must_use]
    pub fn provable_from_data(self) -> bool {
        matches!(
            self,
            Self::NoOversell
                | Self::OneEach
                | Self::FirstCome
                | Self::OneOutcome
                // As far as a claim that was deleted undecided shows.
                | Self::DurableAck
                | Self::Agree
                | Self::OnceUsed
        )
    }
}
