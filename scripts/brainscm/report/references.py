"""The works that a methods text cites, as people read them and as BibTeX."""

from __future__ import annotations

from dataclasses import dataclass

from brainscm import __version__


@dataclass(frozen=True)
class Reference:
    """A published work.

    Attributes:
        key: its name in BibTeX.
        authors: as BibTeX has them, `Family, Given and Family, Given`; `and others` for the rest of a long list.
        published: where, with volume and pages.
        year: with a letter where a text could mean two works.
    """

    key: str
    authors: str
    title: str
    published: str
    year: str
    doi: str = ""
    kind: str = "article"

    @property
    def cited(self) -> str:
        """As a text names it: Tustison et al. 2010."""
        names = [author.partition(",")[0].strip("{}") for author in self.authors.split(" and ")]
        who = names[0] if len(names) == 1 else " and ".join(names) if len(names) == 2 else f"{names[0]} et al."
        return f"{who.replace(' and others', ' et al.')} {self.year}"

    @property
    def listed(self) -> str:
        """As an entry of a list of references."""
        *most, last = [author.replace(",", "").strip("{}") for author in self.authors.split(" and ")]
        who = f"{', '.join(most)}{' et al.' if last == 'others' else f', {last}'}" if most else last
        where = f" {self.published}" if self.published else ""
        return f"{who} ({self.year}). {self.title}.{where}." + (f" https://doi.org/{self.doi}" if self.doi else "")

    @property
    def bibtex(self) -> str:
        place = {"article": "journal", "book": "publisher"}.get(self.kind, "howpublished")
        fields = {"author": self.authors, "title": f"{{{self.title}}}", place: self.published, "year": self.year[:4]}
        fields |= {"doi": self.doi} if self.doi else {}
        lines = "".join(f"  {name} = {{{value}}},\n" for name, value in fields.items())
        return f"@{self.kind}{{{self.key},\n{lines}}}\n"


SOFTWARE = Reference(
    "brainscm",
    "{The BrainSCM developers}",
    "BrainSCM: counterfactual brain MRI with a latent structural causal model",
    f"Version {__version__}",
    "2026",
    kind="misc",
)
REFERENCES = {
    reference.key: reference
    for reference in (
        SOFTWARE,
        Reference(
            "bartlett2015",
            "Bartlett, Jonathan W. and Seaman, Shaun R. and White, Ian R. and Carpenter, James R.",
            "Multiple imputation of covariates by fully conditional specification: accommodating the substantive model",
            "Statistical Methods in Medical Research 24(4), 462-487",
            "2015",
            "10.1177/0962280214521348",
        ),
        Reference(
            "barnard1999",
            "Barnard, John and Rubin, Donald B.",
            "Small-sample degrees of freedom with multiple imputation",
            "Biometrika 86(4), 948-955",
            "1999",
            "10.1093/biomet/86.4.948",
        ),
        Reference(
            "peng2024",
            "Peng, Wei and Xia, Tian and De Sousa Ribeiro, Fabio and Bosschieter, Tomas and Adeli, Ehsan and "
            "Zhao, Qingyu and Glocker, Ben and Pohl, Kilian M.",
            "Latent 3D Brain MRI Counterfactual",
            "arXiv:2409.05585",
            "2024",
            "10.48550/arXiv.2409.05585",
        ),
        Reference(
            "gorgolewski2016",
            "Gorgolewski, Krzysztof J. and others",
            "The brain imaging data structure, a format for organizing and describing outputs of neuroimaging "
            "experiments",
            "Scientific Data 3, 160044",
            "2016",
            "10.1038/sdata.2016.44",
        ),
        Reference(
            "li2016",
            "Li, Xiangrui and Morgan, Paul S. and Ashburner, John and Smith, Jolinda and Rorden, Christopher",
            "The first step for neuroimaging data analysis: DICOM to NIfTI conversion",
            "Journal of Neuroscience Methods 264, 47-56",
            "2016",
            "10.1016/j.jneumeth.2016.03.001",
        ),
        Reference(
            "tustison2010",
            "Tustison, Nicholas J. and Avants, Brian B. and Cook, Philip A. and Zheng, Yuanjie and Egan, Alexander and "
            "Yushkevich, Paul A. and Gee, James C.",
            "N4ITK: improved N3 bias correction",
            "IEEE Transactions on Medical Imaging 29(6), 1310-1320",
            "2010",
            "10.1109/TMI.2010.2046908",
        ),
        Reference(
            "avants2011",
            "Avants, Brian B. and Tustison, Nicholas J. and Song, Gang and Cook, Philip A. and Klein, Arno and "
            "Gee, James C.",
            "A reproducible evaluation of ANTs similarity metric performance in brain image registration",
            "NeuroImage 54(3), 2033-2044",
            "2011a",
            "10.1016/j.neuroimage.2010.09.025",
        ),
        Reference(
            "atropos2011",
            "Avants, Brian B. and Tustison, Nicholas J. and Wu, Jue and Cook, Philip A. and Gee, James C.",
            "An open source multivariate framework for n-tissue segmentation with evaluation on public data",
            "Neuroinformatics 9(4), 381-400",
            "2011b",
            "10.1007/s12021-011-9109-y",
        ),
        Reference(
            "fonov2011",
            "Fonov, Vladimir and Evans, Alan C. and Botteron, Kelly and Almli, C. Robert and McKinstry, Robert C. and "
            "Collins, D. Louis",
            "Unbiased average age-appropriate atlases for pediatric studies",
            "NeuroImage 54(1), 313-327",
            "2011",
            "10.1016/j.neuroimage.2010.07.033",
        ),
        Reference(
            "avants2008",
            "Avants, Brian B. and Epstein, Charles L. and Grossman, Murray and Gee, James C.",
            "Symmetric diffeomorphic image registration with cross-correlation: evaluating automated labeling of "
            "elderly and neurodegenerative brain",
            "Medical Image Analysis 12(1), 26-41",
            "2008",
            "10.1016/j.media.2007.06.004",
        ),
        Reference(
            "oord2017",
            "van den Oord, Aaron and Vinyals, Oriol and Kavukcuoglu, Koray",
            "Neural discrete representation learning",
            "arXiv:1711.00937",
            "2017",
            "10.48550/arXiv.1711.00937",
        ),
        Reference(
            "zeghidour2021",
            "Zeghidour, Neil and Luebs, Alejandro and Omran, Ahmed and Skoglund, Jan and Tagliasacchi, Marco",
            "SoundStream: an end-to-end neural audio codec",
            "IEEE/ACM Transactions on Audio, Speech, and Language Processing 30, 495-507",
            "2021",
            "10.1109/TASLP.2021.3129994",
        ),
        Reference(
            "mentzer2023",
            "Mentzer, Fabian and Minnen, David and Agustsson, Eirikur and Tschannen, Michael",
            "Finite scalar quantization: VQ-VAE made simple",
            "arXiv:2309.15505",
            "2023",
            "10.48550/arXiv.2309.15505",
        ),
        Reference(
            "efron1972",
            "Efron, Bradley and Morris, Carl",
            "Empirical Bayes on vector observations: an extension of Stein's method",
            "Biometrika 59(2), 335-347",
            "1972",
            "10.1093/biomet/59.2.335",
        ),
        Reference(
            "golub1979",
            "Golub, Gene H. and Heath, Michael and Wahba, Grace",
            "Generalized cross-validation as a method for choosing a good ridge parameter",
            "Technometrics 21(2), 215-223",
            "1979",
            "10.1080/00401706.1979.10489751",
        ),
        Reference(
            "pustejovsky2018",
            "Pustejovsky, James E. and Tipton, Elizabeth",
            "Small-sample methods for cluster-robust variance estimation and hypothesis testing in fixed effects "
            "models",
            "Journal of Business & Economic Statistics 36(4), 672-683",
            "2018",
            "10.1080/07350015.2016.1247004",
        ),
        Reference(
            "fisch2023",
            "Fisch, Lukas and others",
            "deepbet: Fast brain extraction of T1-weighted MRI using convolutional neural networks",
            "arXiv:2308.07003",
            "2023",
            "10.48550/arXiv.2308.07003",
        ),
        Reference(
            "freeborough1997",
            "Freeborough, Peter A. and Fox, Nick C.",
            "The boundary shift integral: an accurate and robust measure of cerebral volume changes from registered "
            "repeat MRI",
            "IEEE Transactions on Medical Imaging 16(5), 623-629",
            "1997",
            "10.1109/42.640753",
        ),
        Reference(
            "mackinnon1985",
            "MacKinnon, James G. and White, Halbert",
            "Some heteroskedasticity-consistent covariance matrix estimators with improved finite sample properties",
            "Journal of Econometrics 29(3), 305-325",
            "1985",
            "10.1016/0304-4076(85)90158-7",
        ),
        Reference(
            "benjamini1995",
            "Benjamini, Yoav and Hochberg, Yosef",
            "Controlling the false discovery rate: a practical and powerful approach to multiple testing",
            "Journal of the Royal Statistical Society B 57(1), 289-300",
            "1995",
            "10.1111/j.2517-6161.1995.tb02031.x",
        ),
        Reference(
            "winkler2014",
            "Winkler, Anderson M. and Ridgway, Gerard R. and Webster, Matthew A. and Smith, Stephen M. and "
            "Nichols, Thomas E.",
            "Permutation inference for the general linear model",
            "NeuroImage 92, 381-397",
            "2014",
            "10.1016/j.neuroimage.2014.01.060",
        ),
        Reference(
            "pearl2009",
            "Pearl, Judea",
            "Causality: models, reasoning, and inference",
            "Cambridge University Press",
            "2009",
            "10.1017/CBO9780511803161",
            "book",
        ),
        Reference(
            "wang2004",
            "Wang, Zhou and Bovik, Alan C. and Sheikh, Hamid R. and Simoncelli, Eero P.",
            "Image quality assessment: from error visibility to structural similarity",
            "IEEE Transactions on Image Processing 13(4), 600-612",
            "2004",
            "10.1109/TIP.2003.819861",
        ),
        Reference(
            "molder2021",
            "Mölder, Felix and others",
            "Sustainable data analysis with Snakemake",
            "F1000Research 10, 33",
            "2021",
            "10.12688/f1000research.29032.2",
        ),
    )
}
