//! Regressions: sequences of steps that once revealed a bug of the tree, as random seeds found them.

use crate::machine::{Call, Opening, Step};
use crate::{Broken, run};

use Call::{
    Cat, Chmod, Close, List, Open, OpenToRead, Put, Read, Rename, Resize, Save, Stat, Unlink, Write,
};
use Opening::{Append, Empty, Exclusive};
use Step::{CloseNext, Edit, End, Fork, NewServer, Rotate, Turn};

#[track_caller]
fn assert_right(steps: &[Step]) {
    if let Err(why) = run(steps, Broken::Nothing) {
        panic!("{why}");
    }
}

fn whole(process: usize, call: Call) -> Step {
    Step::Call(process, call, true)
}

fn begun(process: usize, call: Call) -> Step {
    Step::Call(process, call, false)
}

#[test]
fn a_maker_that_reads_its_new_file_reads_on_after_writing_it() {
    assert_right(&[
        End(0, false),
        Edit(1, None),
        whole(0, Open(1, Empty)),
        whole(2, OpenToRead(1)),
        whole(2, Close(0)),
        CloseNext,
        begun(2, Read(0, 0, 0)),
    ]);
}

#[test]
fn a_writer_of_a_missing_name_creates_it_even_over_a_new_server() {
    assert_right(&[
        begun(2, Put(2, 0)),
        whole(0, Cat(1)),
        whole(0, OpenToRead(2)),
        NewServer,
    ]);
}

#[test]
fn a_child_writes_to_a_file_that_its_parent_created_and_closed() {
    let others_and_write = [whole(1, Cat(2)), Fork(3), begun(3, Resize(2, 0))];
    let mut steps = vec![
        whole(0, Open(2, Append)),
        whole(0, Open(0, Empty)),
        Fork(3),
        begun(4, Close(2)),
    ];
    steps.extend(others_and_write);
    assert_right(&steps);
    assert_right(&[
        whole(0, Open(2, Append)),
        whole(3, Chmod(0)),
        Fork(0),
        whole(4, Close(0)),
        whole(0, Stat(2)),
        begun(3, Write(0, 0)),
    ]);
}

#[test]
fn a_new_file_that_is_renamed_over_another_begins_with_nothing() {
    assert_right(&[
        begun(0, Open(0, Exclusive)),
        Rotate(None),
        begun(0, Open(0, Empty)),
        whole(2, Open(2, Append)),
        whole(0, Open(0, Exclusive)),
        whole(0, Cat(2)),
        begun(2, Rename(2, 0)),
        whole(0, Cat(0)),
        begun(2, Write(0, 0)),
    ]);
}

#[test]
fn an_inode_number_from_a_listing_is_never_given_to_another_name() {
    assert_right(&[
        Turn(0, 1),
        whole(0, Rename(1, 0)),
        whole(0, Save(1, 0, false, true)),
        whole(0, List),
        begun(2, Put(0, 0)),
        begun(3, List),
        begun(0, Open(0, Empty)),
    ]);
}

#[test]
fn a_new_empty_file_may_be_renamed_over_a_secret() {
    let begin = [
        Fork(0),
        whole(0, Open(2, Append)),
        whole(0, Cat(2)),
        whole(0, Rename(2, 0)),
    ];
    assert_right(&[&begin[..], &[whole(0, Stat(0))]].concat());
    let removed = [whole(1, Unlink(0)), whole(0, Stat(0))];
    assert_right(&[&begin[..], &removed].concat());
}
