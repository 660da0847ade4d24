"""One raw T1w in; a brain mask, a brain on the template's grid, tissue maps, QC metrics and a status out."""
