//! What was met while cases were played.

/// What was met: cases in which nothing is shared show nothing.
#[derive(Debug, Default, Clone, Copy)]
pub struct Tally {
    pub cases: u64,
    pub cases_with_hits: u64,
    pub answers: u64,
    pub hits: u64,
    pub stale: u64,
    pub collapsed: u64,
    pub not_modified: u64,
    pub partial: u64,
    pub heads: u64,
    pub validated: u64,
    pub stand_ins: u64,
    pub of_another: u64,
    pub for_personal: u64,
    pub of_personal: u64,
    pub within_partitions: u64,
    pub across_clones: u64,
}

impl Tally {
    pub fn add(&mut self, other: &Self) {
        self.cases += other.cases;
        self.cases_with_hits += other.cases_with_hits;
        self.answers += other.answers;
        self.hits += other.hits;
        self.stale += other.stale;
        self.collapsed += other.collapsed;
        self.not_modified += other.not_modified;
        self.partial += other.partial;
        self.heads += other.heads;
        self.validated += other.validated;
        self.stand_ins += other.stand_ins;
        self.of_another += other.of_another;
        self.for_personal += other.for_personal;
        self.of_personal += other.of_personal;
        self.within_partitions += other.within_partitions;
        self.across_clones += other.across_clones;
    }
}

impl Tally {
    /// Of a thousand cases at least so many answers, or the cases say little.
    pub fn shows_enough(&self) {
        #[rustfmt::skip]
        let rows = [
            ("cases with a hit", self.cases_with_hits, 300),
            ("hits", self.hits, 1_200),
            ("stale answers", self.stale, 50),
            ("collapsed answers", self.collapsed, 100),
            ("304 from the store", self.not_modified, 200),
            ("206 from the store", self.partial, 60),
            ("HEAD from the store", self.heads, 200),
            ("validated answers", self.validated, 40),
            ("stand-ins for failures", self.stand_ins, 5),
            ("answers made for another user", self.of_another, 500),
            ("shared answers to personal requests", self.for_personal, 300),
            ("shared answers made for personal requests", self.of_personal, 150),
            ("answers shared within a partition", self.within_partitions, 200),
            ("answers shared by clones of a layer", self.across_clones, 80),
        ];
        for (what, seen, least) in rows {
            let thousand = seen * 1_000 / self.cases;
            assert!(
                thousand >= least,
                "{what}: {thousand} of a thousand cases, not {least}"
            );
        }
    }
}
