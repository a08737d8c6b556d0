package filters

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/ehlogate/ehlogate/contrib/e2e/mx"
)

// Amavis is a private amavisd-new with SpamAssassin's engine in it. It speaks SMTP, takes XFORWARD,
// and gives mail back to Back.
type Amavis struct {
	Port, Back int
	*process
}

// amavisConf is its configuration; the arguments are the directory and the two ports. Spam is
// marked from 5 on, and discarded, or refused in a before-queue filter, from 15 on.
const amavisConf = `use strict;
$max_servers = 2;
$daemon_user = 'amavis';
$daemon_group = 'amavis';
$MYHOME = '%[1]s';
$TEMPBASE = "$MYHOME/tmp";
$ENV{TMPDIR} = $TEMPBASE;
$db_home = "$MYHOME/db";
$helpers_home = "$MYHOME/var";
$lock_file = "$MYHOME/amavisd.lock";
$pid_file = "$MYHOME/amavisd.pid";
$enable_db = 0;
$enable_zmq = 0;
$do_syslog = 0;
$log_level = 1;
$myhostname = 'mx.example';
$mydomain = 'mx.example';
@local_domains_maps = (1);
@mynetworks = qw(127.0.0.0/8);
$inet_socket_bind = '127.0.0.1';
$inet_socket_port = %[2]d;
$forward_method = 'smtp:[127.0.0.1]:%[3]d';
$notify_method = $forward_method;
@bypass_virus_checks_maps = (1);
@bypass_banned_checks_maps = (1);
@bypass_header_checks_maps = (1);
@decoders = ();
$enable_dkim_verification = 0;
$sa_local_tests_only = 1;
$sa_configpath = "$MYHOME/rules";
$sa_siteconfigpath = "$MYHOME/rules";
$sa_tag_level_deflt = -999;
$sa_tag2_level_deflt = 5;
$sa_kill_level_deflt = 15;
$sa_dsn_cutoff_level = 0;
$final_spam_destiny = %[4]s;
$spam_quarantine_method = undef;
$virus_quarantine_method = undef;
$spam_admin = undef;
$virus_admin = undef;
1;
`

// StartAmavis starts one in an empty directory, on free ports. Destiny is what becomes of spam,
// D_DISCARD or D_REJECT.
func StartAmavis(dir, destiny string) (*Amavis, error) {
	ports, err := mx.FreePorts(2)
	if err != nil {
		return nil, err
	}
	return StartAmavisAt(dir, destiny, ports[0], ports[1])
}

// StartAmavisAt is StartAmavis with the port on which it listens and the one to which it gives mail
// back.
func StartAmavisAt(dir, destiny string, port, back int) (*Amavis, error) {
	home := filepath.Join(dir, "home")
	a := &Amavis{Port: port, Back: back}
	var rules strings.Builder
	// Nothing but the words in the Subject.
	rules.WriteString("loadplugin Mail::SpamAssassin::Plugin::Check\nrequired_score 5\nuse_bayes 0\n")
	for _, n := range Scores {
		fmt.Fprintf(&rules, "header TEST_SCORE%[1]d Subject =~ /\\bscore%[1]d\\b/\nscore TEST_SCORE%[1]d %[1]d\n", n)
	}
	err := write(dir, map[string]string{
		"amavisd.conf": fmt.Sprintf(amavisConf, home, a.Port, a.Back, destiny), "home/rules/local.cf": rules.String(), "home/tmp/.keep": "", "home/db/.keep": "", "home/var/.keep": "",
	})
	if err != nil {
		return nil, err
	}
	// It reads no configuration that it could write.
	if err := own(home, "amavis"); err != nil {
		return nil, err
	}
	if a.process, err = start(dir, amavisd(), "-c", filepath.Join(dir, "amavisd.conf"), "foreground"); err != nil {
		return nil, err
	}
	return a, a.listens(a.Port)
}

// Stop stops it.
func (a *Amavis) Stop() { a.stop() }

// amavisd is where Debian has the program: under another name before Debian 12.
func amavisd() string {
	const before = "/usr/sbin/amavisd-new"
	if _, err := os.Stat(before); err == nil {
		return before
	}
	return "/usr/sbin/amavisd"
}
