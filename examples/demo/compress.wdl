version 1.1

# Compress a file in parts, side by side, and join the parts to one file that gunzip reads.

workflow compress {
  input {
    File sources
  }

  call split { input: file = sources }
  scatter (part in split.parts) {
    call pack { input: part = part }
  }
  call join { input: parts = pack.packed }

  output {
    File compressed = join.joined
  }
}

task split {
  input {
    File file
  }
  command <<<
    split --lines=40000 ~{file}
  >>>
  output {
    Array[File] parts = glob("x*")
  }
}

task pack {
  input {
    File part
  }
  command <<<
    gzip -9 --stdout ~{part} > packed.gz
  >>>
  output {
    File packed = "packed.gz"
  }
}

task join {
  input {
    Array[File] parts
  }
  command <<<
    cat ~{sep(" ", parts)} > sources.txt.gz
  >>>
  output {
    File joined = "sources.txt.gz"
  }
}
