//! The owner's tree against a plain model, without a mount: a made-up kernel and made-up processes drive a real tree in
//! any order of turns, and plain maps say what is right.
//!
//! Each case is a list of steps; a failure prints the shortest list that still fails.

mod calls;
mod found;
mod kernel;
mod machine;
mod poisonous;
mod processes;
mod provider;
mod reference;
mod server;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};

use machine::{Call, Machine, Step, step};

/// So many steps make a case, on the average.
const STEPS: usize = 100;

/// A mechanism that is taken out, to show that its loss is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    Nothing,
    /// Nothing; but each folder counts as large.
    NothingInLargeFolder,
    /// The kernel gets no epoch after a change.
    EpochsAreLost,
    /// A child's close counts as that of the process that opened the file.
    ChildClosesCount,
    /// A killed process is taken for one that ended by itself.
    KilledCountAsEnded,
    /// The next server finds an empty journal.
    JournalIsLost,
    /// What a listing of a large folder said of a name is kept, whatever changed while it was on its way.
    ListingsAreBelieved,
    /// The kernel does not walk again after ESTALE.
    NoSecondWalk,
}

impl Broken {
    pub fn is_in_large_folder(self) -> bool {
        matches!(self, Self::NothingInLargeFolder | Self::ListingsAreBelieved)
    }
}

fn run(steps: &[Step], broken: Broken) -> Result<(), String> {
    // Tried by who wants to know more: several who change one name at the same time.
    let shares_names = std::env::var_os("SIMPLETUNER_LIVE_MODEL_SHARED").is_some();
    let mut machine = Machine::new(broken, shares_names);
    let run = machine.run(steps);
    let run = run.map_err(|why| format!("\n{}\n{why}", machine.trace()));
    assert!(
        machine.leaves_nothing(),
        "something holds the server of this case for ever"
    );
    run
}

/// Tries cases; gives the shortest one that fails, and why.
fn search(cases: u32, seed: u64, broken: Broken) -> Option<(Vec<Step>, String)> {
    let config = Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 4000,
        ..Config::default()
    };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let steps = prop::collection::vec(step(), 1..2 * STEPS);
    let result = runner.run(&steps, |steps| {
        run(&steps, broken).map_err(TestCaseError::fail)
    });
    match result {
        Ok(()) => None,
        Err(TestError::Fail(why, steps)) => Some((steps, why.message().to_owned())),
        Err(TestError::Abort(why)) => panic!("{why}"),
    }
}

fn assert_right(cases: u32, seed: u64) {
    if let Some((steps, why)) = search(cases, seed, Broken::Nothing) {
        let steps: Vec<String> = steps.iter().map(|step| format!("  {step:?}")).collect();
        panic!("seed {seed}: {why}\n{}", steps.join("\n"));
    }
}

/// So many steps each are tried with the fixed seed and with a new one.
const CASES: u32 = 100;

#[test]
fn the_tree_agrees_with_plain_maps() {
    assert_right(CASES, 11);
}

/// SIMPLETUNER_LIVE_MODEL_SEED and _CASES choose.
#[test]
fn the_tree_agrees_with_plain_maps_for_a_new_seed() {
    let given = std::env::var("SIMPLETUNER_LIVE_MODEL_SEED").ok();
    let seed = given.and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(rand_seed);
    println!("SIMPLETUNER_LIVE_MODEL_SEED={seed}");
    let cases = std::env::var("SIMPLETUNER_LIVE_MODEL_CASES").ok();
    let cases = cases.and_then(|cases| cases.parse().ok());
    assert_right(cases.unwrap_or(CASES), seed);
}

fn rand_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::hash::RandomState::new().build_hasher().finish()
}

fn assert_found(broken: Broken) {
    let found = search(20 * CASES, 11, broken);
    let (steps, why) = found.unwrap_or_else(|| panic!("{broken:?} is not noticed"));
    if let Err(why) = run(&steps, Broken::Nothing) {
        panic!("{broken:?} is not to blame: {why}\n{steps:#?}");
    }
    println!("{broken:?}, after {} steps: {why}\n{steps:#?}", steps.len());
}

#[test]
fn the_model_notices_lost_epochs() {
    assert_found(Broken::EpochsAreLost);
}

#[test]
fn the_model_notices_that_a_childs_close_counts() {
    assert_found(Broken::ChildClosesCount);
}

#[test]
fn the_model_notices_that_a_killed_writer_counts_as_ended() {
    assert_found(Broken::KilledCountAsEnded);
}

#[test]
fn the_model_notices_a_lost_journal() {
    assert_found(Broken::JournalIsLost);
}

#[test]
fn the_model_notices_listings_that_are_kept_too_long() {
    // It is still at its listing, which comes to its end.
    let found = |broken| is_wrong_after(&Step::Call(0, Call::List, true), broken);
    assert!(found(Broken::ListingsAreBelieved));
    assert!(!found(Broken::NothingInLargeFolder));
}

/// A change at each moment of a listing; one of them is between an answer and the kernel's taking it in. Whether `stat` is wrong then,
/// after this step.
fn is_wrong_after(step: &Step, broken: Broken) -> bool {
    (0..12).any(|turns| {
        let steps = [
            Step::Call(0, Call::List, false),
            Step::Turn(0, turns),
            Step::Edit(0, Some(20)),
            step.clone(),
            Step::Call(1, Call::Stat(0), true),
        ];
        run(&steps, broken).is_err()
    })
}

#[test]
fn a_size_is_right_beside_a_listing_at_each_of_its_moments() {
    let is_wrong = |broken| is_wrong_after(&Step::Turn(0, 1), broken);
    assert!(!is_wrong(Broken::Nothing));
    // The known limit.
    assert!(is_wrong(Broken::NothingInLargeFolder));
}

#[test]
fn the_model_notices_a_missing_second_walk() {
    assert_found(Broken::NoSecondWalk);
}
