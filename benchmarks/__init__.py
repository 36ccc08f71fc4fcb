"""Side-by-side timings, one run each: interleaved, medians with quartiles. They measure; no test depends on them."""
