include { option ; quoted ; task_environment } from './inputs.nf'

// Trains one method under one protocol, on all sections but those of a fold, or on all.
process TRAIN {
    tag "${model.id}"
    label 'process_train'
    // What the recipe trains on and with, which decides what the task asks for (conf/base.config, conf/gpu.config).
    ext device: { model.device ?: 'cpu' }, threads: { model.threads ?: 1 }

    input:
    tuple val(model), val(plan) // id, method, protocol, fold, bundle, device, threads; JSON: its recipe
    path sections, stageAs: 'set/*'
    path gene_text, stageAs: 'text/*'
    path encoder_weights, stageAs: 'weights/*'

    output:
    tuple val(model), path("${model.id}"), emit: model
    path "training/${model.id}", emit: record // what is published: Nextflow publishes no part of another output

    script:
    """
    printf '%s' ${quoted(plan)} > plan.json
    ${task_environment(task)}histocast train \\
        --set set \\
        --recipe plan.json \\
        --protocol ${model.protocol} \\
        --fold ${quoted(model.fold)} \\
        ${option('--gene-text', gene_text, null)} \\
        ${option('--encoder-weights', encoder_weights, null)} \\
        --outdir ${quoted(model.id)}
    mkdir -p training/${quoted(model.id)}
    (shopt -s nullglob; cp ${quoted(model.id)}/train.json ${quoted(model.id)}/metrics.* training/${quoted(model.id)})
    """

    stub:
    """
    mkdir -p ${quoted(model.id)} training/${quoted(model.id)}
    touch ${quoted(model.id)}/{bundle.json,fusion.onnx,genes.parquet,train.json}
    touch training/${quoted(model.id)}/{train.json,metrics.csv,metrics.json}
    """
}
