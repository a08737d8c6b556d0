package daemon

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// register makes the parts' counters visible at /metrics. The parts count by themselves and know nothing of Prometheus.
func (d *Daemon) register(r prometheus.Registerer) {
	counter := func(name, help, label, value string, n *atomic.Uint64) {
		opts := prometheus.CounterOpts{Namespace: "ehlogate", Name: name, Help: help}
		if label != "" {
			opts.ConstLabels = prometheus.Labels{label: value}
		}
		r.MustRegister(prometheus.NewCounterFunc(opts, func() float64 { return float64(n.Load()) }))
	}
	t, m, s, l := &d.tables.Stats, &d.milter.Stats, &d.store.Stats, &d.ledger.Stats
	const lookups = "Lookups answered, by what the MTA was told of STARTTLS."
	counter("lookups_total", lookups, "answer", "offered", &t.Offered)
	counter("lookups_total", lookups, "answer", "withheld", &t.Withheld)
	counter("lookups_unknown_total", "Lookups of an unknown table or with a malformed key, answered with not found.", "", "", &t.Unknown)
	counter("lookups_late_total", "Lookups that took longer than 50 ms, answered with not found.", "", "", &t.Late)
	const connections, refused = "Connections accepted.", "Connections closed at once because too many were open."
	const malformed, panics = "Connections closed because the peer sent garbage.", "Faults of our own, each kept inside its session."
	counter("connections_total", connections, "listener", "table", &t.Connections)
	counter("connections_total", connections, "listener", "milter", &m.Connections)
	counter("connections_refused_total", refused, "listener", "table", &t.Refused)
	counter("connections_refused_total", refused, "listener", "milter", &m.Refused)
	counter("connections_malformed_total", malformed, "listener", "table", &t.Malformed)
	counter("connections_malformed_total", malformed, "listener", "milter", &m.Malformed)
	counter("panics_total", panics, "listener", "table", &t.Panics)
	counter("panics_total", panics, "listener", "milter", &m.Panics)
	counter("sessions_total", "SMTP sessions heard.", "", "", &m.Sessions)
	counter("messages_total", "Messages heard, accepted or not.", "", "", &m.Messages)
	counter("messages_tls_total", "Messages heard in sessions over TLS.", "", "", &m.TLSMessages)
	const verdicts = "Messages of which something was said, by class."
	counter("verdicts_total", verdicts, "class", "spam", &m.Spam)
	counter("verdicts_total", verdicts, "class", "ham", &m.Ham)
	counter("actions_total", "Messages to which a tier's action was applied.", "", "", &m.Actions)
	counter("lessons_total", "Verdicts learnt.", "", "", &s.Learnt)
	counter("store_commits_total", "Commits of the embedded store.", "", "", &s.Commits)
	counter("store_commits_failed_total", "Commits that failed and are tried again.", "", "", &s.Failed)
	counter("store_expired_total", "Records removed because nothing in them counts any more.", "", "", &s.Expired)
	counter("events_written_total", "Lines written to the event log.", "", "", &l.Written)
	counter("events_dropped_total", "Lines that could not be written to the event log.", "", "", &l.Dropped)
	counter("observations_late_total", "Observations not durable when their message was answered; they were queued or dropped.", "", "", &d.late)
	r.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "ehlogate", Name: "store_records", Help: "Hosts and networks of which something is known."},
			func() float64 { return float64(d.store.Len()) }),
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
}
