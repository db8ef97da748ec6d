# SPDX-License-Identifier: GPL-2.0-only
# Fill the cover letter that git format-patch made, and give all mails
# Message-Ids that depend on what is in them, not on the time.
use strict;
use warnings;

my %ids;
my $count = 0;

sub slurp
{
	my $file = shift;
	open(my $in, '<', $file) or die "$file: $!\n";
	local $/;
	return <$in>;
}

sub spew
{
	my ($file, $text) = @_;
	open(my $out, '>', $file) or die "$file: $!\n";
	print $out $text;
	close($out) or die "$file: $!\n";
}

my %mail = map { $_ => slurp($_) } @ARGV;
for my $file (@ARGV) {
	$mail{$file} =~ /^Message-Id: <(.*?)>/mi or die "$file: no Message-Id\n";
	$ids{$1} = sprintf('%s-%d@%s', $ENV{ID}, $count++, $ENV{DOMAIN});
}

my $cover = $ARGV[0];
my $text = slurp($ENV{TEXT});
$text =~ s/\s+\z//;
$mail{$cover} =~ s/\*\*\* SUBJECT HERE \*\*\*/$ENV{SUBJECT}/;
$mail{$cover} =~ s/\*\*\* BLURB HERE \*\*\*/$text/;
$mail{$cover} =~ s/^Date: .*/Date: $ENV{DATE}/m;
$mail{$cover} =~ s/^base-commit: .*/base-commit: $ENV{COMMIT}/m;

for my $file (@ARGV) {
	my ($head, $body) = split(/\n\n/, $mail{$file}, 2);
	$head =~ s{<(.*?)>}{'<' . ($ids{$1} // $1) . ">"}ge;
	spew($file, "$head\n\n$body");
}
