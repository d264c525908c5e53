#!/usr/bin/perl
# A program without any library of ours that appends its records itself: theorbo run -- examples/perl/report.pl
#
# What it does by hand is all there is: one record is RS, JSON, LF, appended by one write to the rank's file in the
# spool. It looks at two bytes of the spool: "pressure" (anything but 0: leave out log lines and metrics, there is no room)
# and "cancelled" (1: somebody has asked for an end). Without a bus it prints. Needs perl and nothing else.
use strict;
use warnings;
use Fcntl qw(O_WRONLY O_APPEND O_CREAT);
use Time::HiRes qw(time sleep);

my $spool = $ENV{THEORBO_SPOOL};
my $records;
if (defined $spool) {
    my $rank = $ENV{THEORBO_RANK} || 0;
    sysopen($records, "$spool/rank-$rank.rec", O_WRONLY | O_APPEND | O_CREAT, 0600) or die "$spool: $!\n";
}

# The byte that a file of the spool holds; 0 where there is none.
sub byte {
    my ($name) = @_;
    open(my $file, '<', "$spool/$name") or return '0';
    my $value = '0';
    read($file, $value, 1);
    return $value;
}

sub text {    # a JSON string
    my ($text) = @_;
    $text =~ s/([\x00-\x1f"\\])/sprintf('\\u%04x', ord($1))/ge;
    return "\"$text\"";
}

sub emit {
    my ($kind, $fields) = @_;
    my $json = sprintf('{"kind":"%s","time":%.6f,"pid":%d,%s}', $kind, time(), $$, $fields);
    return print STDERR "$json\n" if !$records;
    return if $kind ne 'result' && byte('pressure') ne '0';
    my $record = "\x1e$json\n";
    my $written = syswrite($records, $record);
    die "cannot report: $!\n" if !defined $written || $written != length $record;
}

$SIG{TERM} = 'IGNORE';    # we look at the byte instead, and end by ourselves
my $cycles = @ARGV ? $ARGV[0] : 20;
my ($x, $done) = (1.0, 0);
emit('log', '"level":"INFO","text":' . text("the square root of 2 in $cycles cycles"));
while ($done < $cycles) {
    last if defined $spool && byte('cancelled') ne '0';
    $x = ($x + 2 / $x) / 2;
    $done++;
    emit('progress', "\"done\":$done,\"total\":$cycles,\"unit\":\"cycles\"");
    emit('metric', sprintf('"name":"error","value":%.17g,"step":%d', $x * $x - 2, $done));
    sleep(0.01);
}
my $value = sprintf('{"x":%.17g,"cycles":%d}', $x, $done);
emit('result', "\"summary\":\"$done cycles\",\"parts\":[{\"mime\":\"application/json\",\"value\":$value}]");
exit($done == $cycles ? 0 : 3);    # 3: ended in good order, because it was cancelled
