//! What is known of claims, a row each, sorted by claim: in memory as far as it fits, beyond that in sorted runs on disk.
//!
//! A hash map of ten million claims takes gigabytes; here a limit is kept however many there are. The files have no names: they are gone with the
//! process, however it ends.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use coupon_domain::{ClaimId, CouponId, Offset, Partition, Round, Slot};
use uuid::Uuid;

use crate::error::{AuditError, failed};

/// A row on disk.
const ROW_BYTES: usize = 79;

/// Bytes that are read of a run at once.
const READ_BYTES: usize = 64 * 1024;

/// Rows that are sorted in memory at once, 80 bytes each: 8 MB of what the logs say, and as much of what the view says.
pub const ROWS_IN_MEMORY_MAX: usize = 100_000;

/// Most bytes that one sorting may have on disk at once: some 200 million rows.
pub const SPILLED_BYTES_MAX: u64 = 16 << 30;

/// Where rows go that are too many for memory. By default to the system's directory for temporary files, within [`ROWS_IN_MEMORY_MAX`] and [`SPILLED_BYTES_MAX`].
#[derive(Clone, Debug)]
pub struct Spill {
    /// The directory of their files.
    pub directory: PathBuf,
    /// Rows that are sorted in memory at once; more go to a file.
    pub rows_in_memory_max: usize,
    /// Most bytes on disk at once; beyond that the audit fails, and says so.
    pub bytes_max: u64,
}

impl Default for Spill {
    fn default() -> Self {
        Self {
            directory: std::env::temp_dir(),
            rows_in_memory_max: ROWS_IN_MEMORY_MAX,
            bytes_max: SPILLED_BYTES_MAX,
        }
    }
}

/// Which claim: rows are sorted by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) coupon_id: CouponId,
    mac: [u8; 16],
}

impl Key {
    pub(crate) fn partition(&self) -> i32 {
        self.coupon_id.partition().number()
    }
}

/// What one place says of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Row {
    pub(crate) key: Key,
    /// The record that says it; rows of a claim are in the order of the line.
    pub(crate) src: i64,
    /// Where its answer was first given.
    pub(crate) decided: i64,
    /// The answer, hashed by this process alone.
    pub(crate) said: u64,
    /// Its final outcome as it is told again, hashed by this process alone.
    pub(crate) told: u64,
    pub(crate) slot: u64,
    pub(crate) round: u8,
    /// Which of the other fields mean something.
    pub(crate) marks: u8,
    /// What became of the claim.
    pub(crate) state: u8,
}

impl Row {
    /// The record at `src` speaks of this claim.
    pub(crate) fn of(claim_id: &ClaimId, src: i64) -> Self {
        let key = Key { coupon_id: claim_id.coupon_id, mac: claim_id.mac };
        let (slot, round) = (claim_id.slot.0, claim_id.round.number());
        Self { key, src, decided: src, said: 0, told: 0, slot, round, marks: 0, state: 0 }
    }

    pub(crate) fn is(&self, mark: u8) -> bool {
        self.marks & mark != 0
    }

    pub(crate) fn claim_id(&self) -> ClaimId {
        ClaimId {
            coupon_id: self.key.coupon_id,
            round: Round::new(self.round).unwrap_or(Round::FIRST),
            slot: Slot(self.slot),
            mac: self.key.mac,
        }
    }

    pub(crate) fn offset(&self) -> Offset {
        Offset::new(self.src).unwrap_or(Offset::ZERO)
    }

    fn encode(&self, to: &mut impl Write) -> std::io::Result<()> {
        to.write_all(&self.key.partition().to_be_bytes())?;
        to.write_all(self.key.coupon_id.unique().as_bytes())?;
        to.write_all(&self.key.mac)?;
        to.write_all(&self.src.to_be_bytes())?;
        to.write_all(&self.decided.to_be_bytes())?;
        to.write_all(&self.said.to_be_bytes())?;
        to.write_all(&self.told.to_be_bytes())?;
        to.write_all(&self.slot.to_be_bytes())?;
        to.write_all(&[self.round, self.marks, self.state])
    }

    fn decode(bytes: &[u8; ROW_BYTES]) -> Option<Self> {
        let mut rest = bytes.as_slice();
        let partition = Partition::new(i32::from_be_bytes(take(&mut rest)?)).ok()?;
        let coupon_id = CouponId::new(partition, Uuid::from_bytes(take(&mut rest)?));
        let key = Key { coupon_id, mac: take(&mut rest)? };
        let (src, decided) = (i64::from_be_bytes(take(&mut rest)?), i64::from_be_bytes(take(&mut rest)?));
        let (said, told) = (u64::from_be_bytes(take(&mut rest)?), u64::from_be_bytes(take(&mut rest)?));
        let slot = u64::from_be_bytes(take(&mut rest)?);
        let [round, marks, state] = take(&mut rest)?;
        Some(Self { key, src, decided, said, told, slot, round, marks, state })
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*head)
}

/// Sorted rows. A copy of it is cheap: they never change.
#[derive(Clone)]
pub(crate) enum Run {
    Memory(Arc<Vec<Row>>),
    File { file: Arc<File>, rows: u64 },
}

/// Takes rows in any order and hands them out sorted.
pub(crate) struct Rows {
    spill: Spill,
    memory: Vec<Row>,
    runs: Vec<Run>,
}

impl Rows {
    /// None yet, beyond those of a run.
    pub(crate) fn beyond(run: Option<Run>, spill: &Spill) -> Self {
        Self { spill: spill.clone(), memory: Vec::new(), runs: run.into_iter().collect() }
    }

    pub(crate) fn push(&mut self, row: Row) -> Result<(), AuditError> {
        if self.memory.len() >= self.spill.rows_in_memory_max.max(1) {
            self.memory.sort_unstable();
            let mut sealing = Sealing::of_runs(&self.spill, &self.runs)?;
            for row in self.memory.drain(..) {
                sealing.push(row)?;
            }
            self.runs.push(sealing.seal()?);
        }
        self.memory.push(row);
        Ok(())
    }

    /// True where nothing was pushed.
    pub(crate) fn has_news(&self) -> bool {
        !self.memory.is_empty() || self.runs.len() > 1
    }

    pub(crate) fn sorted(mut self) -> Result<Sorted, AuditError> {
        self.memory.sort_unstable();
        self.runs.push(Run::Memory(Arc::new(self.memory)));
        let mut sorted = Sorted { sources: Vec::new(), heads: BinaryHeap::new() };
        for (number, run) in self.runs.into_iter().enumerate() {
            let mut source = Source::of(run);
            if let Some(row) = source.next()? {
                sorted.heads.push(Reverse((row, number)));
            }
            sorted.sources.push(source);
        }
        Ok(sorted)
    }
}

/// All rows in their order.
pub(crate) struct Sorted {
    sources: Vec<Source>,
    heads: BinaryHeap<Reverse<(Row, usize)>>,
}

impl Sorted {
    pub(crate) fn peek(&self) -> Option<&Row> {
        self.heads.peek().map(|Reverse((row, _))| row)
    }

    pub(crate) fn next(&mut self) -> Result<Option<Row>, AuditError> {
        let Some(Reverse((row, number))) = self.heads.pop() else { return Ok(None) };
        if let Some(source) = self.sources.get_mut(number)
            && let Some(next) = source.next()?
        {
            self.heads.push(Reverse((next, number)));
        }
        Ok(Some(row))
    }
}

enum Source {
    Memory { rows: Arc<Vec<Row>>, at: usize },
    File { reader: BufReader<ReadAt>, left: u64 },
}

impl Source {
    fn of(run: Run) -> Self {
        match run {
            Run::Memory(rows) => Self::Memory { rows, at: 0 },
            Run::File { file, rows } => Self::File {
                reader: BufReader::with_capacity(READ_BYTES, ReadAt { file, at: 0 }),
                left: rows,
            },
        }
    }

    fn next(&mut self) -> Result<Option<Row>, AuditError> {
        match self {
            Self::Memory { rows, at } => {
                let row = rows.get(*at).copied();
                *at += 1;
                Ok(row)
            }
            Self::File { left: 0, .. } => Ok(None),
            Self::File { reader, left } => {
                let mut bytes = [0; ROW_BYTES];
                reader.read_exact(&mut bytes).map_err(failed("reading spilled rows"))?;
                *left -= 1;
                Ok(Row::decode(&bytes))
            }
        }
    }
}

/// A place in a file that others read as well.
struct ReadAt {
    file: Arc<File>,
    at: u64,
}

impl Read for ReadAt {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.file.read_at(buffer, self.at)?;
        self.at += u64::try_from(read).unwrap_or(0);
        Ok(read)
    }
}

/// Takes rows in their order, and makes a run of them.
pub(crate) struct Sealing {
    spill: Spill,
    bytes_left: u64,
    memory: Vec<Row>,
    file: Option<BufWriter<File>>,
    rows: u64,
}

impl Sealing {
    pub(crate) fn new(spill: &Spill) -> Self {
        Self { spill: spill.clone(), bytes_left: spill.bytes_max, memory: Vec::new(), file: None, rows: 0 }
    }

    /// One that goes to disk at once, beside others that are there.
    fn of_runs(spill: &Spill, runs: &[Run]) -> Result<Self, AuditError> {
        let rows = runs.iter().map(|run| if let Run::File { rows, .. } = run { *rows } else { 0 });
        let bytes = rows.sum::<u64>().saturating_mul(u64::try_from(ROW_BYTES).unwrap_or(u64::MAX));
        let mut sealing = Self::new(spill);
        sealing.bytes_left = spill.bytes_max.saturating_sub(bytes);
        sealing.open_file()?;
        Ok(sealing)
    }

    fn open_file(&mut self) -> Result<&mut BufWriter<File>, AuditError> {
        let directory = self.spill.directory.display().to_string();
        let doing = || format!("spilling rows to {directory} (set TMPDIR to a directory with room)");
        let file = tempfile::tempfile_in(&self.spill.directory).map_err(failed(&doing()))?;
        let mut file = BufWriter::with_capacity(READ_BYTES, file);
        for row in self.memory.drain(..) {
            row.encode(&mut file).map_err(failed(&doing()))?;
        }
        Ok(self.file.insert(file))
    }

    pub(crate) fn push(&mut self, row: Row) -> Result<(), AuditError> {
        self.rows += 1;
        if self.file.is_none() {
            if self.memory.len() < self.spill.rows_in_memory_max {
                self.memory.push(row);
                return Ok(());
            }
            self.open_file()?;
        }
        let row_bytes = u64::try_from(ROW_BYTES).unwrap_or(u64::MAX);
        if self.rows.saturating_mul(row_bytes) > self.bytes_left {
            let most = self.spill.bytes_max;
            return Err(AuditError(format!("the rows of claims take more than {most} bytes on disk")));
        }
        match &mut self.file {
            Some(file) => row.encode(file).map_err(failed("spilling rows")),
            None => Ok(()),
        }
    }

    pub(crate) fn seal(self) -> Result<Run, AuditError> {
        match self.file {
            None => Ok(Run::Memory(Arc::new(self.memory))),
            Some(file) => {
                let file = file.into_inner().map_err(failed("spilling rows"))?;
                Ok(Run::File { file: Arc::new(file), rows: self.rows })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(mac: u8, src: i64) -> Row {
        let claim_id = format!("c3-{}.2.{:016x}.{}", "1".repeat(32), 9, format!("{mac:02x}").repeat(16))
            .parse()
            .unwrap();
        Row { decided: src - 1, said: 7, marks: 3, state: 2, ..Row::of(&claim_id, src) }
    }

    fn small() -> Spill {
        Spill { rows_in_memory_max: 10, ..Spill::default() }
    }

    #[test]
    fn a_row_reads_back_and_names_its_claim() {
        let written = row(5, 40);
        let mut bytes = Vec::new();
        written.encode(&mut bytes).unwrap();
        assert_eq!(Row::decode(&bytes.try_into().unwrap()), Some(written));
        assert_eq!(Row::of(&written.claim_id(), 40).key, written.key);
        assert_eq!(size_of::<Row>(), 80);
    }

    #[test]
    fn rows_come_out_sorted_however_many_there_are() {
        let mut rows = Rows::beyond(None, &small());
        let wanted: Vec<Row> = (0..=250).flat_map(|mac| [row(mac, 1), row(mac, 2)]).collect();
        // 7 and 502 have no common divisor: all of them, in another order.
        for number in 0..wanted.len() {
            rows.push(wanted[number * 7 % wanted.len()]).unwrap();
        }
        assert!(rows.memory.len() <= 10 && rows.runs.len() > 10);
        let (mut sorted, mut sealing) = (rows.sorted().unwrap(), Sealing::new(&small()));
        let mut found = Vec::new();
        while let Some(row) = sorted.next().unwrap() {
            found.push(row);
            sealing.push(row).unwrap();
        }
        assert_eq!(found, wanted);
        // A run is read again and again, and further rows find their place among its own.
        let run = sealing.seal().unwrap();
        for _ in 0..2 {
            let mut rows = Rows::beyond(Some(run.clone()), &small());
            assert!(!rows.has_news());
            rows.push(row(3, 0)).unwrap();
            let mut sorted = rows.sorted().unwrap();
            let mut count = 0;
            while sorted.next().unwrap().is_some() {
                count += 1;
            }
            assert_eq!(count, wanted.len() + 1);
        }
    }

    #[test]
    fn the_disk_has_a_limit() {
        let mut rows = Rows::beyond(None, &Spill { bytes_max: 1_500, ..small() });
        let refused = (0..100).find_map(|mac| rows.push(row(mac, 1)).err()).unwrap();
        assert!(refused.to_string().contains("more than 1500 bytes on disk"), "{refused}");
        let nowhere = Spill { directory: "/nowhere".into(), ..small() };
        let mut rows = Rows::beyond(None, &nowhere);
        let refused = (0..100).find_map(|mac| rows.push(row(mac, 1)).err()).unwrap();
        assert!(refused.to_string().contains("/nowhere (set TMPDIR"), "{refused}");
    }
}
