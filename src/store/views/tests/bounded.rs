//! What is bounded stays so: the file while people read, the tail, the time a rebuild takes from others.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

fn on_disk(dir: &Path) -> u64 {
    std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(dir.join(FILE)).unwrap()) * 512
}

/// Writes 2,000 batches into a file of its own, and says how large it is then.
fn two_thousand_batches(reading: impl Fn(&Views, &AtomicBool) + Sync) -> u64 {
    let dir = tempfile::tempdir().unwrap();
    let made = Made::default();
    let views = Views::open(Some(dir.path()), made.journal(), 0).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| reading(&views, &done));
        let mut chance = Chance(31);
        let mut at: Micros = START.parse().unwrap();
        for _ in 0..2_000 {
            let from = made.len();
            at = traffic(&made, &mut chance, 4, at, 20_000_000);
            views.committed(made.block(from));
            settled_in(&views, &made);
        }
        done.store(true, Ordering::SeqCst);
    });
    views.close();
    on_disk(dir.path())
}

#[test]
fn readers_never_make_the_file_grow() {
    let alone = two_thousand_batches(|_, _| {});
    let read = two_thousand_batches(|views, done| {
        while !done.load(Ordering::SeqCst) {
            // An export and a report, over and over.
            views.totals().unwrap();
            views.tally(None, None, &mut |_, _, _| {}, &mut |_| {}).unwrap();
        }
    });
    assert!(read < 2 * alone, "{alone} bytes alone, {read} with readers");
}

#[test]
fn a_pass_over_the_sums_is_of_one_moment_and_holds_nobody_up() {
    for seed in 0..6 {
        let mut chance = Chance(100 + seed);
        let made = Made::default();
        let views = made.views();
        let mut at = traffic(&made, &mut chance, 400, START.parse().unwrap(), 40_000_000);
        views.committed(made.block(0));
        if seed % 2 == 0 {
            settled_in(&views, &made);
        }
        let from = Micros(START.parse::<Micros>().unwrap().0 + 1);
        let found = std::cell::RefCell::new(Measures::default());
        let mut slices = 0;
        let as_of = views
            .tally(
                Some(from),
                None,
                &mut |_, _, m| {
                    found.borrow_mut().add(m);
                    slices += 1;
                    if slices % 40 == 1 {
                        // Written while the pass is under way: calls that are new, that end, and that are tried again.
                        let first = made.len();
                        at = traffic(&made, &mut chance, 30, at, 40_000_000);
                        let again = made.len() as usize;
                        retry_some(&made, &mut chance, at);
                        assert!(made.len() as usize > again);
                        views.committed(made.block(first));
                        settled_in(&views, &made);
                    }
                },
                &mut |call| found.borrow_mut().add(&Measures::of(call).unwrap()),
            )
            .unwrap();
        assert!(slices > 100, "too little to be interrupted: {slices}");
        // What a reader of exactly these entries would have found.
        let then = Made::default();
        then.0.lock().unwrap().extend(made.block(0).iter().take(as_of.seq as usize).cloned());
        let mut wanted = Measures::default();
        let calls = whole(&then);
        calls.iter().filter(|c| c.started_at >= from).filter_map(Measures::of).for_each(|m| wanted.add(&m));
        assert_eq!(found.into_inner(), wanted, "seed {seed}");
    }
}

/// Some calls that have ended are tried once more, and some of those end.
fn retry_some(made: &Made, chance: &mut Chance, at: Micros) {
    let calls: Vec<Call> = whole(&made).into_iter().filter(|c| c.outcome == Outcome::Failed).collect();
    for call in calls.iter().take(6) {
        let again = admit(call.id, call.attempts + 1, call.who.clone().unwrap(), "gpt-5.2");
        let seq = made.push(at, None, Body::Admit(Box::new(again)));
        if chance.below(2) == 0 {
            made.settle(at, seq, settle(Some(Money::usd(1)), Usage::new()));
        }
    }
}

/// Every call there is. Views that have only begun would not have them all.
fn whole(made: &Made) -> Vec<Call> {
    let views = made.views();
    settled_in(&views, made);
    all(&views)
}

/// A journal that the threads of the views cannot read until they are let, so that a rebuild takes as long as a test likes.
fn held(made: &Made) -> (Journal, Arc<AtomicBool>) {
    let (journal, open) = (made.journal(), Arc::new(AtomicBool::new(false)));
    let gate = open.clone();
    let held: Journal = Arc::new(move |from, limit| {
        let ours = std::thread::current().name().is_some_and(|name| name.starts_with("views"));
        // Not for ever: a test that fails must end.
        for _ in 0..60_000 {
            if !ours || gate.load(Ordering::SeqCst) {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        journal(from, limit)
    });
    (held, open)
}

#[test]
fn a_call_is_never_behind_while_the_file_is_built_anew() {
    let mut chance = Chance(41);
    let made = Made::default();
    let at = traffic(&made, &mut chance, 6_000, START.parse().unwrap(), 400_000);
    let wanted = whole(&made);
    let (journal, open) = held(&made);
    let views = Views::open(None, journal, made.len()).unwrap();
    assert_eq!(views.applied(), 0);
    assert!(made.len() > 2 * tail::MOST_ENTRIES as u64, "{} entries fit into the tail", made.len());
    let look = |views: &Views, wanted: &[Call]| {
        // Those whose id tells the time are found wherever they are, the others near the end.
        let timely: Vec<&Call> = wanted.iter().filter(|c| !tables::is_stray(c.id, c.started_at)).collect();
        for call in timely.iter().step_by(97) {
            assert_eq!(views.call(call.id).unwrap().as_ref(), Some(*call), "entry {}", call.seq);
        }
    };
    look(&views, &wanted);
    assert_eq!(views.call(CallId(u128::MAX)).unwrap(), None);
    // What is committed meanwhile is there at once.
    let from = made.len();
    let id = CallId(((at.0 / 1_000) as u128) << 80 | 5);
    let seq = made.push(at, None, Body::Admit(Box::new(admit(id, 1, who("a"), "gpt-5.2"))));
    views.committed(made.block(from));
    assert_eq!(views.call(id).unwrap().map(|c| c.outcome), Some(Outcome::Running));
    made.settle(at, seq, settle(Some(Money::usd(2)), Usage::new()));
    views.committed(made.block(seq + 1));
    assert_eq!(views.call(id).unwrap().and_then(|c| c.cost), Some(Money::usd(2)));
    // Whose a stored answer is cannot be told before it is found.
    let stored = wanted.iter().find(|call| call.seq < 500 && call.response_id.is_some()).unwrap();
    let answer = stored.response_id.as_deref().unwrap();
    for id in [answer, "resp_of_nobody"] {
        let found = views.response("openai", id);
        assert!(matches!(found, Err(StoreError::BeingBuilt { done: 0, .. })), "{found:?}");
    }
    // Sums say that they are old.
    assert_eq!(views.behind().unwrap(), Some(AsOf::default()));
    let as_of = views.tally(None, None, &mut |_, _, _| {}, &mut |_| {}).unwrap();
    assert_eq!((as_of, views.as_of().unwrap().seq), (AsOf::default(), 0));
    open.store(true, Ordering::SeqCst);
    settled_in(&views, &made);
    assert_eq!(views.behind().unwrap(), None);
    assert_eq!(views.response("openai", answer).unwrap().map(|known| known.call), Some(stored.id));
    assert_eq!(views.response("openai", "resp_of_nobody").unwrap(), None);
    look(&views, &whole(&made));
    assert_eq!(sums(&views), naive(&all(&views)));
}

#[test]
fn a_call_that_ends_long_after_the_file_stops_is_found_ended() {
    let made = Made::default();
    let mut chance = Chance(43);
    let at: Micros = START.parse().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let id = CallId(((at.0 / 1_000) as u128) << 80 | 5);
    let seq = made.push(at, None, Body::Admit(Box::new(admit(id, 1, who("a"), "gpt-5.2"))));
    let views = Views::open(Some(dir.path()), made.journal(), made.len()).unwrap();
    settled_in(&views, &made);
    views.close();
    drop(views);
    let at = traffic(&made, &mut chance, 3_000, at, 400_000);
    made.settle(at, seq, settle(Some(Money::usd(2)), Usage::new()));
    traffic(&made, &mut chance, 3_000, at, 400_000);
    let (journal, open) = held(&made);
    let views = Views::open(Some(dir.path()), journal, made.len()).unwrap();
    assert_eq!(views.applied(), 1);
    assert_eq!(views.call(id).unwrap().and_then(|c| c.cost), Some(Money::usd(2)));
    open.store(true, Ordering::SeqCst);
    settled_in(&views, &made);
    assert_eq!(views.call(id).unwrap().and_then(|c| c.cost), Some(Money::usd(2)));
}

#[test]
fn calls_that_run_on_keep_no_stretch_from_being_sealed() {
    let made = Made::default();
    let views = made.views();
    let at: Micros = START.parse().unwrap();
    let mut chance = Chance(47);
    let jobs: Vec<u64> = (0..40).map(|_| made.admit(at, who("job"), "gpt-5.2")).collect();
    let mut end = at;
    let mut sent = 0;
    let mut send = |views: &Views| {
        views.committed(made.block(sent));
        sent = made.len();
        settled_in(views, &made);
        assert_eq!(all(views), whole(&made));
        assert_eq!(sums(views), naive(&all(views)));
    };
    for _ in 0..12 {
        end = traffic(&made, &mut chance, 60, end, 90_000_000);
        send(&views);
    }
    let sealed = views.inner.file(|reader| Ok(reader.reached.sealed)).unwrap();
    assert!(sealed > 500, "{sealed} of {} entries", made.len());
    // Every other job ends, one batch each; then the rest at once.
    for (n, seq) in jobs.iter().enumerate() {
        if n % 2 == 0 {
            made.settle(end, *seq, settle(Some(Money::usd(1)), Usage::new()));
            send(&views);
        }
    }
    for (_, seq) in jobs.iter().enumerate().filter(|(n, _)| n % 2 == 1) {
        made.settle(end, *seq, settle(Some(Money::usd(1)), Usage::new()));
    }
    send(&views);
    let first = jobs[0];
    let rows = views.inner.file(|reader| Ok(reader.rows(0..first + 40)?.count())).unwrap();
    assert_eq!(rows, 0, "rows of a sealed stretch whose calls have all ended");
    let found = check(&views, None, &made.journal()).unwrap();
    assert_eq!(found.difference, None);
}

#[test]
fn a_file_that_is_removed_under_way_is_built_anew_while_serving() {
    let dir = tempfile::tempdir().unwrap();
    let made = Made::default();
    let mut chance = Chance(53);
    let views = Views::open(Some(dir.path()), made.journal(), 0).unwrap();
    let mut at = traffic(&made, &mut chance, 400, START.parse().unwrap(), 40_000_000);
    views.committed(made.block(0));
    settled_in(&views, &made);
    let file = dir.path().join(FILE);
    std::fs::remove_file(&file).unwrap();
    // Somebody goes on calling, and looking.
    let anew = (0..20_000).any(|_| {
        let from = made.len();
        at = traffic(&made, &mut chance, 2, at, 40_000_000);
        views.committed(made.block(from));
        let _ = views.totals();
        views.wait_for(made.len(), Duration::from_millis(20));
        file.exists() && views.applied() > 0
    });
    assert!(anew, "nothing has taken the place of the file");
    settled_in(&views, &made);
    assert_eq!(all(&views), whole(&made));
    assert_eq!(check(&views, None, &made.journal()).unwrap().difference, None);
    views.close();
    drop(views);
    let views = Views::open(Some(dir.path()), made.journal(), made.len()).unwrap();
    assert_eq!(views.applied(), made.len(), "what was written is there at the next start");
}
