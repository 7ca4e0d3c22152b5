version 1.1

# Variant calling, as in variants.py: align paired reads to a genome in chunks, side by side, and call what differs.
#
#     toilfn wdl examples/variants.wdl genome=lambda_virus.fa.gz reads_1=reads_1.fq.gz reads_2=reads_2.fq.gz

workflow variants {
  input {
    File genome
    File reads_1
    File reads_2
    Int chunk = 2500  # how many pairs one task aligns
  }

  call unpack { input: archive = genome }
  call index { input: genome = unpack.plain }
  call split as split_1 { input: reads = reads_1, size = chunk }
  call split as split_2 { input: reads = reads_2, size = chunk }

  scatter (pair in zip(split_1.parts, split_2.parts)) {
    call align { input: index = index.parts, mates_1 = pair.left, mates_2 = pair.right }
  }
  call merge { input: parts = align.sorted }
  call variant { input: genome = unpack.plain, reads = merge.reads }

  output {
    File calls = variant.calls
  }
}

task unpack {
  input {
    File archive
  }
  command <<<
    gzip -dc ~{archive} > ~{basename(archive, ".gz")}
  >>>
  output {
    File plain = basename(archive, ".gz")
  }
  runtime {
    memory: "100 MB"
  }
}

task index {
  input {
    File genome
  }
  command <<<
    mkdir index
    bowtie2-build --quiet ~{genome} index/genome
  >>>
  output {
    Array[File] parts = glob("index/*")
  }
  runtime {
    memory: "1 GB"
  }
}

task split {
  input {
    File reads
    Int size
  }
  command <<<
    gzip -dc ~{reads} | split -d -a 5 -l ~{4 * size} - part.
  >>>
  output {
    Array[File] parts = glob("part.*")
  }
  runtime {
    memory: "100 MB"
  }
}

task align {
  input {
    Array[File] index
    File mates_1
    File mates_2
  }
  String prefix = sub(index[0], "\\.(rev\\.)?[0-9]\\.bt2$", "")
  command <<<
    set -e
    bowtie2 --quiet -x ~{prefix} -1 ~{mates_1} -2 ~{mates_2} -S reads.sam
    samtools sort -o reads.bam reads.sam
  >>>
  output {
    File sorted = "reads.bam"
  }
  runtime {
    cpu: 1
    memory: "1 GB"
  }
}

task merge {
  input {
    Array[File] parts
  }
  command <<<
    samtools merge reads.bam ~{sep(" ", parts)}
  >>>
  output {
    File reads = "reads.bam"
  }
  runtime {
    memory: "1 GB"
  }
}

task variant {
  input {
    File genome
    File reads
  }
  command <<<
    set -e
    ln -s ~{genome} genome.fa
    bcftools mpileup --no-version -f genome.fa -Ou -o pileup.bcf ~{reads}
    bcftools call --no-version --ploidy 1 -mv -o calls.vcf pileup.bcf
  >>>
  output {
    File calls = "calls.vcf"
  }
  runtime {
    memory: "1 GB"
  }
}
