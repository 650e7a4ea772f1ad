"""Which recipe, and what is chosen in place of its own: fields that stages of the train workflow share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from histocast.stages.stage import FromEnvironment, Stage

if TYPE_CHECKING:
    from histocast.training.recipe import Recipe

RecipeName = Annotated[str, Field(description="A recipe's JSON file, or the name of a shipped one.")]
Method = Annotated[
    str | None,
    Field(description="In place of the recipe's method; 'dkan:no-gene-text' is one with one idea switched off or on."),
]
MethodOptions = Annotated[
    tuple[str, ...],
    Field(description="An option of the method, such as model.contrastive=false; may be repeated."),
]
Panel = Annotated[Path | None, Field(description="File with one gene per line, in place of the recipe's panel.")]
GeneText = Annotated[
    Path | None, Field(description="Embedded genes of 'genes embed', for methods that read descriptions.")
]
UnseenGenes = Annotated[
    Path | None,
    Field(
        description="File with one gene per line: left out of training, predicted from their descriptions, and "
        "scored apart."
    ),
]
EncoderNames = Annotated[
    tuple[str, ...], Field(description="An encoder in place of those of the recipe; may be repeated.")
]
ExportedEncoders = Annotated[
    tuple[Path, ...],
    Field(description="A folder of 'export-encoder', besides those of the recipe; may be repeated."),
]
EncoderWeights = Annotated[Path | None, Field(description="Weights that a trained target encoder starts from.")]
Checkpoints = Annotated[
    Path | None,
    FromEnvironment("HISTOCAST_CHECKPOINTS"),
    Field(description="Folder for what a stopped training continues from; default: within the model's folder."),
]
GeneTable = Annotated[Path | None, Field(description="Table gene_id,gene_symbol for counts that hold symbols only.")]
Sheet = Annotated[Path, Field(description="Training sheet: sample,slide,counts,patient[,spots][,mpp].")]
SetFolder = Annotated[Path, Field(description="Folder of prepared sections.")]


class ChoosesRecipe(Stage):
    """A stage that trains by a recipe, with what is chosen in place of its own."""

    set: SetFolder
    method: Method = None
    panel: Panel = None
    gene_text: GeneText = None
    unseen_genes: UnseenGenes = None
    encoder_weights: EncoderWeights = None
    option: MethodOptions = ()

    def read_recipe(self, name: str, *, checkpoints: Path | None = None) -> Recipe:
        """Read the recipe of a name with these choices; of a plan, which has checked that all of them are used.

        Raises `UsageError`: something is given that the method does not use.
        """
        from histocast.training.plan_models import refuse_unused
        from histocast.training.read_recipe import is_plan, read_recipe

        chosen = read_recipe(
            name,
            panel=self.panel,
            method=self.method,
            options=self.option,
            encoder_weights=self.encoder_weights,
            unseen_genes=self.unseen_genes,
            gene_text=self.gene_text,
        )
        if not is_plan(name):
            refuse_unused(
                [chosen], gene_text=self.gene_text, encoder_weights=self.encoder_weights, checkpoints=checkpoints
            )
        return chosen
