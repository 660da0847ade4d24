"""Rule convert_dicom: folders of DICOM files into a BIDS folder of T1w scans."""

from pathlib import Path

from brainscm.job import job

with job(snakemake):
    from brainscm.cohort.dicom import convert_dicom

    params = snakemake.params
    convert_dicom(Path(params.dicom_dir), Path(params.bids_dir), threads=snakemake.threads)
