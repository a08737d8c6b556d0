package daemon

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/ehlogate/ehlogate/policy/store"
	"github.com/ehlogate/ehlogate/policy/store/redis"
)

// register makes the parts' counters visible at /metrics. The parts count by themselves and know
// nothing of Prometheus.
func (d *Daemon) register(r prometheus.Registerer) {
	counter := counters(r)
	t, m, l := &d.tables.Stats, &d.milter.Stats, &d.events.Stats
	const lookups = "Lookups answered, by what the MTA was told of STARTTLS."
	counter("lookups_total", lookups, "answer", "offered", &t.Offered)
	counter("lookups_total", lookups, "answer", "withheld", &t.Withheld)
	counter("lookups_unknown_total", "Lookups of an unknown table or with a malformed key, answered with not found.", "", "", &t.Unknown)
	counter("lookups_late_total", "Lookups that took longer than 50 ms, answered with not found.", "", "", &t.Late)
	const connections = "Connections accepted."
	const idle, strangers = "Connections closed for a new one, the longest idle first.", "Connections of hosts that may not connect."
	for _, g := range d.guards {
		counter("connections_idle_closed_total", idle, "listener", g.Key(), &g.Stats.Evicted)
		counter("connections_refused_total", strangers, "listener", g.Key(), &g.Stats.Strangers)
	}
	const malformed, panics = "Connections closed because the peer sent garbage.", "Faults of our own, each kept inside its session."
	counter("connections_total", connections, "listener", "table", &t.Connections)
	counter("connections_total", connections, "listener", "milter", &m.Connections)
	counter("connections_malformed_total", malformed, "listener", "table", &t.Malformed)
	counter("connections_malformed_total", malformed, "listener", "milter", &m.Malformed)
	counter("panics_total", panics, "listener", "table", &t.Panics)
	counter("panics_total", panics, "listener", "milter", &m.Panics)
	counter("milter_headers_cut_total", "Headers longer than is held, heard up to there.", "", "", &m.Cut)
	counter("milter_crowded_total", "Milter connections closed because too many packets were incomplete.", "", "", &m.Crowded)
	counter("panics_total", panics, "listener", "none", &d.faults.Count)
	counter("feed_strangers_total", "Verdicts posted without a token, and not taken.", "", "", &d.intake.Strangers)
	counter("sessions_total", "SMTP sessions heard.", "", "", &m.Sessions)
	counter("messages_total", "Messages heard, accepted or not.", "", "", &m.Messages)
	counter("messages_tls_total", "Messages heard in sessions over TLS.", "", "", &m.TLSMessages)
	in, joined := &d.intake.Stats, &d.intake.Correlator.Stats
	const verdicts = "Verdicts on messages by class: the first of a message, and later ones of another class."
	counter("verdicts_total", verdicts, "class", "spam", &in.Spam)
	counter("verdicts_total", verdicts, "class", "ham", &in.Ham)
	counter("corrections_total", "Later verdicts on messages that were observed before.", "", "", &in.Corrections)
	counter("signals_joined_total", "Signals of logs, feeds and people about a message or session that was observed.", "", "", &joined.Joined)
	counter("signals_alone_total", "Signals that became an observation of their own.", "", "", &joined.Alone)
	counter("signals_repeated_total", "Signals that said nothing new.", "", "", &joined.Repeated)
	counter("signals_orphaned_total", "Signals about an unknown message that did not name its client.", "", "", &in.Orphaned)
	counter("posts_elsewhere_total", "Verdicts posted here by other programs on messages that other nodes of the cluster have heard, and count.", "", "", &in.Elsewhere)
	counter("messages_reinjected_total", "Messages that an after-queue filter has put back, as the MTA's log tells.", "", "", &in.Reinjected)
	counter("dnsbl_resolver_refused_total", "Refusals by DNS block lists that are about our resolver: the MTA refuses all mail.", "", "", &in.ResolverRefused)
	counter("verdicts_distrusted_total", "Verdicts that came while their source was distrusted.", "", "", &in.Distrusted)
	gauge(r, "sources_distrusted", "Sources of verdicts that are not believed.", func() float64 { return float64(len(d.intake.Sources.Distrusted())) })
	counter("headers_malformed_total", "Verdict headers and Authentication-Results that could not be read.", "", "", &m.MalformedHeaders)
	counter("feed_refused_total", "Posts of other programs that could not be read.", "", "", &d.intake.Refused)
	counter("feed_posts_total", "Verdicts posted by other programs.", "", "", &d.intake.Posts)
	counter("feed_dropped_total", "Verdicts posted faster than they could be worked on.", "", "", &d.intake.Dropped)
	counter("tls_failures_total", "TLS handshakes that failed, as the MTA's log tells.", "", "", &in.FailedHandshakes)
	counter("tls_exceptions_total", "Exceptions for hosts that may require TLS, or whose TLS is broken.", "", "", &in.Exceptions)
	log := &d.follower.reader.Stats
	counter("log_lines_total", "Lines of the MTA's log.", "", "", &log.Lines)
	counter("log_postfix_lines_total", "Lines of the MTA's log that are Postfix's.", "", "", &log.Postfix)
	counter("log_signals_total", "Lines that said something of a client.", "", "", &log.Signals)
	counter("log_lines_malformed_total", "Lines that were too long, or could not be read.", "", "", &log.Malformed)
	counter("actions_total", "Messages and refused commands to which a tier's action was applied.", "", "", &m.Actions)
	counter("events_written_total", "Lines written to the event log.", "", "", &l.Written)
	counter("events_dropped_total", "Lines that could not be written to the event log.", "", "", &l.Dropped)
	counter("observations_late_total", "Observations not durable when their message was answered; they were queued or dropped.", "", "", &d.intake.Late)
	r.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Namespace: "ehlogate", Name: "cpu_seconds", Help: "Processor time of this process, user and system."}, func() float64 { return spent().Seconds() }))
	d.tables.Took = histogram(r, "lookup_seconds", "How long the decision of a lookup took.", 10e-6, 100e-6, 1e-3, 10e-3, 50e-3)
	d.milter.Took = histogram(r, "end_of_message_seconds", "How long the end of a message took, until it was learnt and written.", 1e-3, 5e-3, 20e-3, 100e-3, 1)
	if d.keeper != nil {
		r.MustRegister(heard{d.keeper})
	}
	switch s := d.store.(type) {
	case *store.Embedded:
		registerEmbedded(r, s)
	case *redis.Store:
		registerRedis(r, s)
	}
	r.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
}

const lessons = "Verdicts learnt."

func registerEmbedded(r prometheus.Registerer, e *store.Embedded) {
	counter, s := counters(r), &e.Stats
	counter("lessons_total", lessons, "", "", &s.Learnt)
	counter("store_commits_total", "Commits of the embedded store.", "", "", &s.Commits)
	counter("store_journalled_total", "Lessons written to the journal of the embedded store.", "", "", &s.Journalled)
	counter("store_journal_failed_total", "Writes of the journal that failed; what they had went into the store's file at once.", "", "", &s.JournalFailed)
	counter("store_commits_failed_total", "Commits that failed and are tried again.", "", "", &s.Failed)
	counter("store_expired_total", "Records removed because nothing in them counts any more.", "", "", &s.Expired)
	counter("store_crowded_total", "Records removed because there were more than store.max_records.", "", "", &s.Crowded)
	counter("store_renewed_total", "Files of the store begun anew because the old one was damaged or gone.", "", "", &s.Renewed)
	gauge(r, "store_records", "Hosts and networks of which something is known.", func() float64 { return float64(e.Len()) })
}

func registerRedis(r prometheus.Registerer, k *redis.Store) {
	counter, s := counters(r), &k.Stats
	counter("lessons_total", lessons, "", "", &s.Learnt)
	const recalls = "Questions to the store, by where the answer came from: memory, Redis, or none in time."
	counter("store_recalls_total", recalls, "from", "memory", &s.Hits)
	counter("store_recalls_total", recalls, "from", "redis", &s.Read)
	counter("store_recalls_total", recalls, "from", "none", &s.Late)
	counter("store_round_trips_total", "Calls that took batches of changes to Redis.", "", "", &s.Trips)
	counter("store_batches_total", "Batches of changes that Redis took.", "", "", &s.Batches)
	counter("store_batches_failed_total", "Batches that Redis did not take and that are sent again.", "", "", &s.Failed)
	counter("store_replayed_total", "Batches that came out of the spool into Redis.", "", "", &s.Replayed)
	counter("store_dropped_total", "Changes for which the spool had no room.", "", "", &s.Dropped)
	counter("store_refused_total", "Changes that Redis could not take, because its key holds something else.", "", "", &s.Refused)
	counter("store_lost_total", "Times that Redis was found to lack what it had taken and what could not be sent again.", "", "", &s.Lost)
	counter("store_invalidations_total", "Networks in which another node changed a tier.", "", "", &s.Invalidated)
	gauge(r, "store_spooled", "Batches that wait on disk for Redis.", func() float64 { return float64(s.Spooled.Load()) })
	gauge(r, "store_cached", "Hosts and networks remembered in memory.", func() float64 { return float64(k.Cached()) })
	gauge(r, "store_up", "1 while Redis answers and may be written to.", func() float64 {
		if k.Up() {
			return 1
		}
		return 0
	})
}

// counters returns what registers a counter, with a label where that has a name.
func counters(r prometheus.Registerer) func(name, help, label, value string, n *atomic.Uint64) {
	return func(name, help, label, value string, n *atomic.Uint64) {
		opts := prometheus.CounterOpts{Namespace: "ehlogate", Name: name, Help: help}
		if label != "" {
			opts.ConstLabels = prometheus.Labels{label: value}
		}
		r.MustRegister(prometheus.NewCounterFunc(opts, func() float64 { return float64(n.Load()) }))
	}
}

// histogram returns what counts durations into buckets, whose bounds are in seconds.
func histogram(r prometheus.Registerer, name, help string, bounds ...float64) func(time.Duration) {
	h := prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "ehlogate", Name: name, Help: help, Buckets: bounds})
	r.MustRegister(h)
	return func(took time.Duration) { h.Observe(took.Seconds()) }
}

func gauge(r prometheus.Registerer, name, help string, f func() float64) {
	r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "ehlogate", Name: name, Help: help}, f))
}
