"""What ``drumfire doctor`` looks at: a function a finding, by where its cause lies."""
