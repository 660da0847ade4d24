"""Quality control: what is measured of each scan, the limits, and the table of all scans."""
