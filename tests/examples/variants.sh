#!/bin/sh
# What examples/variants.py does, by hand and in one go: variants.sh GENOME READS_1 READS_2 > calls.vcf
set -eu
genome=$1 reads_1=$2 reads_2=$3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

gzip -dc "$genome" > "$work/genome.fa"
bowtie2-build --quiet "$work/genome.fa" "$work/genome"
bowtie2 --quiet --reorder -x "$work/genome" -1 "$reads_1" -2 "$reads_2" | samtools sort -o "$work/reads.bam" -
bcftools mpileup --no-version -f "$work/genome.fa" "$work/reads.bam" | bcftools call --no-version --ploidy 1 -mv
