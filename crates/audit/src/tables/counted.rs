//! What is counted: what must hold of the tables whatever the log says, and that named coupons have no rows but those that were found.

use coupon_domain::invariant::Invariant;
use infrastructure_postgres::audit::IssuedCount;

use super::{Tables, reflected, unreadable};
use crate::error::AuditError;
use crate::findings::Findings;

impl Tables<'_> {
    /// What must hold of the tables whatever the log says.
    pub(crate) fn compare_with_themselves(&mut self, findings: &mut Findings) -> Result<(), AuditError> {
        let progress =
            self.runtime.block_on(self.reader.progress(self.whose.partition())).map_err(unreadable)?;
        if reflected(progress.as_ref()) < self.next_src() {
            return Err(AuditError(
                "PostgreSQL was put back in time while it was read: audit again".to_owned(),
            ));
        }
        // A coupon of which something is deleted meanwhile is counted the next time.
        let before = self.runtime.block_on(self.reader.deleted(&self.whose)).map_err(unreadable)?;
        let counts = self.runtime.block_on(self.reader.issued_counts(&self.whose)).map_err(unreadable)?;
        let deleted = self.runtime.block_on(self.reader.deleted(&self.whose)).map_err(unreadable)?;
        for count in
            counts.iter().filter(|count| before.get(&count.coupon_id) == deleted.get(&count.coupon_id))
        {
            let deleted = deleted.get(&count.coupon_id).map_or(0, |deleted| deleted.issued);
            compare_count(count, i64::try_from(deleted).unwrap_or(i64::MAX), findings);
        }
        let strays = self.runtime.block_on(self.reader.strays(&self.whose)).map_err(unreadable)?;
        let redemptions = u64::try_from(strays.redemptions).unwrap_or(0);
        findings.checked(Invariant::OnceUsed, "redemptions", redemptions);
        let found = [
            (Invariant::OnceUsed, "issued_coupons", strays.misused, "do not fit their redemption"),
            (Invariant::FirstCome, "issued_coupons", strays.without_claim, "have no granted claim"),
            (Invariant::Agree, "issued_coupons", strays.elsewhere, "belong to a coupon of another partition"),
            (Invariant::Agree, "audit_events", strays.events, "belong to no command"),
        ];
        for (invariant, table, rows, what) in found {
            if rows > 0 {
                let place = format!("table {table}, partition {}", self.whose.partition());
                findings.broken(invariant, &place, &format!("{rows} rows {what}"));
            }
        }
        Ok(())
    }

    /// Rows of named coupons that no place of the line asked for. They are counted behind the last look: what retention deletes meanwhile is not taken for more.
    pub(super) fn count_named(&mut self, findings: &mut Findings) -> Result<(), AuditError> {
        let Some(named) = &self.named else { return Ok(()) };
        let next_src = reflected(self.progress.as_ref());
        let counting = self.reader.claim_counts(&self.whose, self.from, next_src);
        for (coupon_id, rows) in self.runtime.block_on(counting).map_err(unreadable)? {
            let more = rows.below - named.found.get(&coupon_id).copied().unwrap_or(0);
            if more > 0 {
                let place = format!("table claims, coupon {coupon_id}");
                let finding = format!("{more} rows are there, but no outcome below the watermark made them");
                findings.broken(Invariant::Agree, &place, &finding);
            }
        }
        Ok(())
    }
}

fn compare_count(count: &IssuedCount, deleted: i64, findings: &mut Findings) {
    let place = format!("table coupons, {}", count.coupon_id);
    let (rows, quantity) = (count.rows, count.quantity);
    findings.checked(Invariant::NoOversell, "coupons in PostgreSQL", 1);
    findings.checked(Invariant::OneEach, "issued coupons in PostgreSQL", u64::try_from(rows).unwrap_or(0));
    if rows.max(count.issued) > quantity {
        let finding = format!("{} of {quantity} are issued", rows.max(count.issued));
        findings.broken(Invariant::NoOversell, &place, &finding);
    }
    if count.most_of_one_user > count.per_user_limit {
        let finding = format!("one user holds {} of {}", count.most_of_one_user, count.per_user_limit);
        findings.broken(Invariant::OneEach, &place, &finding);
    }
    if rows.saturating_add(deleted) != count.issued {
        let finding =
            format!("issued is {}, and {rows} coupons are issued ({deleted} deleted)", count.issued);
        findings.broken(Invariant::Agree, &place, &finding);
    }
    if deleted == 0 && rows != count.highest_issue_no {
        let finding = format!("{rows} coupons are issued, the highest number is {}", count.highest_issue_no);
        findings.broken(Invariant::FirstCome, &place, &finding);
    }
    if rows != count.codes {
        let finding = format!("{rows} coupons are issued with {} codes", count.codes);
        findings.broken(Invariant::Agree, &place, &finding);
    }
}
