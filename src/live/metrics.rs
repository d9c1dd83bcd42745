//! The file `metrics`: the state and the counters of the mount as Prometheus' text. No secret's name is in it, so its size does
//! not grow with the secrets.

use std::fs;
use std::time::SystemTime;

use nix::errno::Errno;

use super::Tree;
use crate::audit::TrailLag;
use crate::cache::{CacheStats, function_caches};
use crate::metrics::FamilyType::{Counter, Gauge};
use crate::metrics::{Exposition, MountCounters};
use crate::process;
use crate::provider::ProviderReport;

impl Tree {
    pub(super) fn metrics(&self) -> String {
        let mut text = Exposition::default();
        self.add_mount(&mut text);
        self.add_traffic(&mut text);
        self.add_providers(&mut text);
        self.add_caches(&mut text);
        self.add_audit(&mut text);
        text.into_text()
    }

    fn add_mount(&self, text: &mut Exposition) {
        let info = self.mount_info();
        text.up(true);
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        let help = "The version of the program that answers; always 1.";
        text.family("build_info", Gauge, help, [(version, true)]);
        let answer = |does: bool| if does { "yes" } else { "no" };
        let kernel = [
            ("fuse", info.kernel.fuse.as_str()),
            ("resend", answer(info.kernel.resend)),
            ("epoch", answer(info.kernel.epoch)),
        ];
        let help = "The kernel's FUSE protocol, and what it can do; always 1.";
        text.family("kernel_info", Gauge, help, [(kernel, true)]);
        let help = "When the mount began, in seconds since 1970.";
        let started = seconds_since_1970(self.started_at());
        text.single("start_time_seconds", Gauge, help, started);
        let help = "Servers that ended and were replaced since the mount began, upgrades and reloads included.";
        let restarts = info.restarts.last().map_or(0, |restart| restart.number);
        text.single("restarts_total", Counter, help, restarts);

        let server = std::process::id();
        let processes = [("keeper", info.keeper_pid), ("server", Some(server))];
        let resident = processes.into_iter().filter_map(|(name, pid)| {
            let bytes = process::resident_memory(pid?)?;
            Some(([("process", name)], bytes))
        });
        let help = "Memory of each process that is in RAM.";
        text.family("resident_memory_bytes", Gauge, help, resident);
        if let Ok(open) = fs::read_dir("/proc/self/fd") {
            let help = "Descriptors that the server has open.";
            text.single("open_descriptors", Gauge, help, open.count());
        }

        let help = "Secrets that are listed.";
        let secrets = self.manager.snapshot().names().len();
        text.single("secrets", Gauge, help, secrets);
        let help = "Views that are defined.";
        text.single("views", Gauge, help, info.views.count);
        let help = "Whether the views are mounted.";
        let is_mounted = info.views.mount_point.is_some();
        text.single("views_mounted", Gauge, help, is_mounted);
    }

    fn add_traffic(&self, text: &mut Exposition) {
        let counters = &self.counters;
        let mounts = [("live", &counters.live), ("views", &counters.views)];
        let each = |count: fn(&MountCounters) -> u64| {
            mounts.map(|(mount, counters)| ([("mount", mount)], count(counters)))
        };
        let help = "Requests of the kernel that the server has taken. The kernel answers others by itself.";
        let requests = each(|counters| counters.requests.get());
        text.family("requests_total", Counter, help, requests);
        let help = "Requests that wait for a provider, a disk or a lock.";
        let waiting = each(|counters| counters.waiting.get());
        text.family("requests_waiting", Gauge, help, waiting);
        let help =
            "Requests that failed, by errno; a look-up of a name that does not exist is one.";
        let errors = mounts.iter().flat_map(|(mount, counters)| {
            let counts = counters.errors.counts();
            counts.map(|(errno, count)| (*mount, errno_name(errno), count))
        });
        let errors: Vec<_> = errors.collect();
        let errors = errors
            .iter()
            .map(|(mount, errno, count)| ([("mount", *mount), ("errno", errno.as_str())], *count));
        text.family("request_errors_total", Counter, help, errors);
        let help = "Files with secrets that were opened to be read. Of views while it is recorded who reads, and equal ones perhaps once.";
        let opens = each(|counters| counters.opens.get());
        text.family("secret_opens_total", Counter, help, opens);
        let help = "Files that were written, after which the change took effect.";
        text.single("writes_total", Counter, help, counters.writes.get());
        let help = "Writes, removals and renames that failed, as in the field failed_write of the file status.";
        let failed = counters.failed_writes.get();
        text.single("failed_writes_total", Counter, help, failed);
        let help = "Whether the last write failed.";
        let is_failing = self.failed_write().is_some();
        text.single("write_failing", Gauge, help, is_failing);
    }

    fn add_providers(&self, text: &mut Exposition) {
        let reports = self.manager.snapshot().reports();
        let reports: Vec<&ProviderReport> =
            reports.iter().filter(|report| report.configured).collect();
        fn each<'a, V>(
            reports: &[&'a ProviderReport],
            value: impl Fn(&ProviderReport) -> Option<V>,
        ) -> Vec<([(&'static str, &'a str); 1], V)> {
            let sample = |report: &&'a ProviderReport| {
                Some(([("provider", report.name.as_str())], value(report)?))
            };
            reports.iter().filter_map(sample).collect()
        }
        let help = "Whether the provider answered when it was last asked. Without a sample it was not asked yet.";
        let up = each(&reports, |report| report.available);
        text.family("provider_up", Gauge, help, up);
        let help = "Whether older values are served, because the provider fails.";
        let stale = each(&reports, |report| Some(report.stale));
        text.family("provider_stale", Gauge, help, stale);
        let help = "Keys that the provider lists.";
        let keys = each(&reports, |report| Some(report.keys.len()));
        text.family("provider_keys", Gauge, help, keys);
        let help = "Keys whose values cannot be decrypted.";
        let undecryptable = each(&reports, |report| {
            let groups = report.undecryptable.as_ref()?;
            Some(groups.iter().map(|group| group.keys.len()).sum::<usize>())
        });
        text.family("provider_undecryptable_keys", Gauge, help, undecryptable);
        let help = "When the provider last answered, in seconds since 1970.";
        let answered = each(&reports, |report| {
            let at = crate::provider::parse_rfc3339(report.last_success.as_deref()?)?;
            Some(seconds_since_1970(at))
        });
        text.family(
            "provider_last_success_timestamp_seconds",
            Gauge,
            help,
            answered,
        );

        let calls: Vec<_> = self.manager.calls().collect();
        let failures = calls
            .iter()
            .map(|(provider, calls)| ([("provider", *provider)], calls.failures.get()));
        let help = "Calls to the provider that failed, or took too long.";
        text.family("provider_failed_calls_total", Counter, help, failures);
        let help = "How long calls to the provider took, in seconds.";
        let durations = calls
            .iter()
            .map(|(provider, calls)| (("provider", *provider), &calls.durations));
        text.histograms("provider_call_duration_seconds", help, durations);
    }

    fn add_caches(&self, text: &mut Exposition) {
        let mut stats = self.manager.caches().stats();
        stats.extend(function_caches().stats());
        let each = |value: fn(&CacheStats) -> u64| {
            let samples = stats.iter();
            samples.map(move |(cache, stats)| ([("cache", cache.as_str())], value(stats)))
        };
        let help = "Entries of the cache, expired ones included.";
        text.family("cache_entries", Gauge, help, each(|s| s.size as u64));
        let help = "The most entries that the cache keeps.";
        text.family(
            "cache_max_entries",
            Gauge,
            help,
            each(|s| s.max_size as u64),
        );
        let help = "Entries that have expired and are not removed yet.";
        let expired = each(|s| s.expired_count as u64);
        text.family("cache_expired_entries", Gauge, help, expired);
        let help = "Look-ups that found an entry.";
        text.family("cache_hits_total", Counter, help, each(|s| s.hits));
        let help = "Look-ups that found none.";
        text.family("cache_misses_total", Counter, help, each(|s| s.misses));
        let help = "Entries that were removed because the cache was full.";
        text.family(
            "cache_evictions_total",
            Counter,
            help,
            each(|s| s.evictions),
        );
    }

    fn add_audit(&self, text: &mut Exposition) {
        let Some(audit) = &self.audit else {
            return;
        };
        let lags = audit.lags();
        let each = |value: fn(&TrailLag) -> f64| {
            let samples = lags.iter();
            samples.map(move |lag| ([("trail", lag.trail)], value(lag)))
        };
        let help = "Rows of the audit trail that are not written yet.";
        let waiting = each(|lag| lag.waiting as f64);
        text.family("audit_waiting_rows", Gauge, help, waiting);
        let help = "How long rows of the audit trail have been due, and are not written.";
        let behind = each(|lag| lag.behind.as_secs_f64());
        text.family("audit_lag_seconds", Gauge, help, behind);
        let help = "Rows of the audit trail that were too many to be kept, and are lost.";
        let lost = each(|lag| lag.lost as f64);
        text.family("audit_lost_rows_total", Counter, help, lost);
        let help = "How many times the kernel has dropped reports of who reads views.";
        let dropped: u64 = lags.iter().map(|lag| lag.dropped).sum();
        text.single("audit_dropped_reports_total", Counter, help, dropped);
    }
}

fn seconds_since_1970(at: SystemTime) -> f64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH);
    // To the millisecond, which a number of this size can have.
    since.map_or(0.0, |since| since.as_millis() as f64 / 1000.0)
}

/// `EIO`, or the number where the kernel's name is not known.
fn errno_name(errno: i32) -> String {
    match Errno::from_raw(errno) {
        Errno::UnknownErrno => errno.to_string(),
        known => format!("{known:?}"),
    }
}
