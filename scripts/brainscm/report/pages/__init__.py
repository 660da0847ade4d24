"""One module a page of the report: from the study's tables to the variables of its template."""
