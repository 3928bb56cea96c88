//! The indices of a ring, walked through in every order that client and daemon can step in.
//!
//! A step is one access to shared memory, so this is the ring under sequential consistency; what
//! is published with release and read with acquire keeps the order of the steps here.

use std::collections::HashSet;

use super::layout::RingLayout;

/// Operations that the client wants done, one after another.
const WANTED: u8 = 5;

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct State {
    sq_head: usize,
    sq_tail: usize,
    cq_head: usize,
    cq_tail: usize,
    /// Which operation a place holds; `None` before the first.
    sqe: Vec<Option<u8>>,
    cqe: Vec<Option<u8>>,
    // The client.
    next: u8,
    free: usize,
    writing: bool,
    reaped: Vec<u8>,
    reading: Option<u8>,
    // The daemon.
    taken: usize,
    /// In order of submission: the operation, and whether it is answered.
    process: Vec<(u8, bool)>,
    /// Answered, but not yet shown.
    answering: Option<u8>,
}

fn distance(ring: RingLayout, from: usize, to: usize) -> usize {
    (to + ring.slots() - from) % ring.slots()
}

/// All states one step away; panics where something that is still needed would be overwritten.
fn steps(ring: RingLayout, now: &State) -> Vec<State> {
    let mut after = Vec::new();
    let mut go = |change: &dyn Fn(&mut State)| {
        let mut next = now.clone();
        change(&mut next);
        after.push(next);
    };
    // Client, prepare: look for room, write, show. Reaping shares its lock, so not in between.
    if now.writing {
        go(&|s| {
            s.sq_head = ring.after(s.sq_head);
            s.writing = false;
            s.next += 1;
        });
    } else if let Some(operation) = now.reading {
        go(&|s| {
            s.cq_tail = ring.after(s.cq_tail);
            s.free += 1;
            s.reaped.push(operation);
            s.reading = None;
        });
    } else {
        if now.next < WANTED && now.free > 0 && ring.after(now.sq_head) != now.sq_tail {
            let untaken = distance(ring, now.taken, now.sq_head);
            assert!(untaken < ring.entries(), "a submission is overwritten: {now:?}");
            go(&|s| {
                s.sqe[s.sq_head] = Some(s.next);
                s.free -= 1;
                s.writing = true;
            });
        }
        if now.cq_tail != now.cq_head {
            go(&|s| s.reading = s.cqe[s.cq_tail]);
        }
    }
    // Daemon: take one if there is room to answer it; answer any; show it and what is in order.
    let room = ring.entries()
        - now.process.iter().filter(|(_, over)| !over).count()
        - distance(ring, now.cq_tail, now.cq_head)
        - usize::from(now.answering.is_some());
    if now.taken != now.sq_head && room > 0 {
        go(&|s| {
            let operation = s.sqe[s.taken].expect("shown before it was written");
            s.process.push((operation, false));
            s.taken = ring.after(s.taken);
        });
    }
    match now.answering {
        None => {
            for (n, _) in now.process.iter().enumerate().filter(|(_, (_, over))| !over) {
                assert!(ring.after(now.cq_head) != now.cq_tail, "a completion is lost: {now:?}");
                go(&|s| {
                    s.process[n].1 = true;
                    s.cqe[s.cq_head] = Some(s.process[n].0);
                    s.answering = Some(s.process[n].0);
                });
            }
        }
        Some(_) => go(&|s| {
            while s.process.first().is_some_and(|(_, over)| *over) {
                s.process.remove(0);
                s.sq_tail = ring.after(s.sq_tail);
            }
            s.cq_head = ring.after(s.cq_head);
            s.answering = None;
        }),
    }
    after
}

#[test]
fn every_operation_ends_once_in_whatever_order_the_sides_step() {
    for entries in 1..=3 {
        let ring = RingLayout::of(entries);
        let nothing = vec![None; ring.slots()];
        let start = State {
            sq_head: 0,
            sq_tail: 0,
            cq_head: 0,
            cq_tail: 0,
            sqe: nothing.clone(),
            cqe: nothing,
            next: 0,
            free: entries,
            writing: false,
            reaped: Vec::new(),
            reading: None,
            taken: 0,
            process: Vec::new(),
            answering: None,
        };
        let (mut seen, mut open) = (HashSet::from([start.clone()]), vec![start]);
        let mut ends = 0;
        while let Some(state) = open.pop() {
            let next = steps(ring, &state);
            if next.is_empty() {
                let mut reaped = state.reaped.clone();
                reaped.sort_unstable();
                assert_eq!(reaped, (0..WANTED).collect::<Vec<_>>(), "stuck in {state:?}");
                ends += 1;
            }
            open.extend(next.into_iter().filter(|state| seen.insert(state.clone())));
        }
        assert!(ends > 0 && seen.len() > 30, "{entries}: {} states", seen.len());
    }
}
